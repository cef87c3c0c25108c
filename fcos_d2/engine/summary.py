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
    advice = advise_learning_rate(cfg)
    accumulation = f", in {solver.ACCUMULATE} micro-batches" if solver.ACCUMULATE > 1 else ""
    rows = [
        ("versions", _versions()),
        ("device", _device(cfg)),
        ("training data", _data(cfg.DATASETS.TRAIN, records)),
        ("test data", "none" if trainer.skip_test else ", ".join(cfg.DATASETS.TEST) or "none"),
        ("classes", f"{cfg.MODEL.FCOS.NUM_CLASSES}: {_names(cfg.MODEL.FCOS.CLASS_NAMES)}"),
        ("batch", f"{solver.IMS_PER_BATCH} on {comm.get_world_size()} process(es){accumulation}"),
        (
            "learning rate",
            f"{solver.BASE_LR:g}, {solver.OPTIMIZER}" + (f"; {advice}" * bool(advice)),
        ),
        ("iterations", f"{solver.MAX_ITER} = {epochs:.1f} epochs, steps {tuple(solver.STEPS)}"),
        ("precision", solver.AMP.DTYPE if solver.AMP.ENABLED else "float32"),
        ("weights", _weights(cfg, trainer)),
        ("start", _start(trainer)),
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


def _data(names: Sequence[str], records: Sequence[dict]) -> str:
    boxes = sum(len(r.get("annotations", ())) for r in records)
    return f"{', '.join(names)}: {len(records)} images, {boxes} boxes"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") if names else "no names known"


def _weights(cfg, trainer) -> str:
    matched = trainer.checkpointer.matched
    if matched is None:
        return "random" + ("" if cfg.MODEL.WEIGHTS else " (MODEL.WEIGHTS is empty)")
    return f"{matched[0]} of {matched[1]} tensors from {cfg.MODEL.WEIGHTS or 'the last checkpoint'}"


def _start(trainer) -> str:
    if trainer.start_iter == 0:
        return "iteration 0"
    return f"resumed at iteration {trainer.start_iter}"
