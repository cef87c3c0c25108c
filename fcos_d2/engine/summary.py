"""Summary of a training run, one block at the start of its log."""

import platform
from collections.abc import Sequence

import detectron2
import torch
import torchvision
from detectron2.utils import comm
from tabulate import tabulate

from ..version import __version__
from .schedule import advise_learning_rate

__all__ = ["startup_block"]


def startup_block(trainer, records: Sequence[dict]) -> str:
    """Versions, device, data, batch, learning rate, weights, output and resume state.

    Args:
        trainer: ``FCOSTrainer`` after ``resume_or_load``.
        records: records of the training data.
    """
    cfg = trainer.cfg
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / max(len(records), 1)
    boxes = sum(len(record.get("annotations", ())) for record in records)
    advice = advise_learning_rate(cfg)
    rate = f"{solver.BASE_LR:g}, {solver.OPTIMIZER}" + (f"; {advice}" if advice else "")
    start = f"resumed at iteration {trainer.start_iter}" if trainer.start_iter else "iteration 0"
    accumulation = f", in {solver.ACCUMULATE} micro-batches" if solver.ACCUMULATE > 1 else ""
    rows = [
        ("versions", _versions()),
        ("device", _device(cfg)),
        ("training data", f"{', '.join(cfg.DATASETS.TRAIN)}: {len(records)} images, {boxes} boxes"),
        ("test data", "none" if trainer.skip_test else ", ".join(cfg.DATASETS.TEST) or "none"),
        ("classes", f"{cfg.MODEL.FCOS.NUM_CLASSES}: {_names(cfg.MODEL.FCOS.CLASS_NAMES)}"),
        ("batch", f"{solver.IMS_PER_BATCH} on {comm.get_world_size()} process(es){accumulation}"),
        ("learning rate", rate),
        ("iterations", f"{solver.MAX_ITER} = {epochs:.1f} epochs, steps {tuple(solver.STEPS)}"),
        ("precision", solver.AMP.DTYPE if solver.AMP.ENABLED else "float32"),
        ("weights", _weights(trainer)),
        ("start", start),
        ("seed", str(trainer.seed)),
        ("output", cfg.OUTPUT_DIR),
    ]
    return tabulate(rows, tablefmt="plain")


def _versions() -> str:
    return (
        f"fcos_d2 {__version__}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, detectron2 {detectron2.__version__}"
    )


def _device(cfg) -> str:
    if cfg.MODEL.DEVICE.startswith("cuda"):
        return f"{cfg.MODEL.DEVICE}, {torch.cuda.get_device_name()}"
    return f"{cfg.MODEL.DEVICE}, {torch.get_num_threads()} threads"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no names known"


def _weights(trainer) -> str:
    matched, given = trainer.checkpointer.matched, trainer.cfg.MODEL.WEIGHTS
    if matched is None:
        return "random" + ("" if given else " (MODEL.WEIGHTS is empty)")
    return f"{matched[0]} of {matched[1]} tensors from {given or 'the last checkpoint'}"
