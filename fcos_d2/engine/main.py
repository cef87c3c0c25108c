"""Training and evaluation from a command line, callable from Python (``train_net.py``)."""

import argparse
import logging
import os
from collections.abc import Callable

import torch
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..config import get_cfg, get_config_file
from ..data.datasets.custom import register_custom
from ..data.loader import training_records
from ..utils.device import check_precision
from . import checks
from .arguments import check_arguments, make_parser, use_data_of_arguments
from .launch import launch
from .schedule import apply_epochs, scale_to_batch
from .summary import startup_block
from .trainer import FCOSTrainer

__all__ = ["load_cfg", "main", "make_parser", "make_trainer", "run", "setup"]

logger = logging.getLogger(__name__)


def run(argv: list[str] | None = None) -> None:
    """Run the command line; wrong input ends it with one line instead of a traceback."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        check_arguments(args)
    except ValueError as error:
        parser.error(str(error))
    launch(_main_with_clear_end, args)


def main(args: argparse.Namespace) -> dict | None:
    """Train, or evaluate with ``--eval-only``, in this process.

    Returns:
        detectron2's results, such as ``{"bbox": {"AP": ...}}``; None without evaluation.

    Raises:
        KeyError, FileNotFoundError, ValueError: for a config, data or weights that cannot work,
            before the model is built where possible.
    """
    return prepare(args)()


def prepare(args: argparse.Namespace) -> Callable[[], dict | None]:
    """Do all of :func:`main` that can fail because of the user's input; return the rest to call."""
    if not args.eval_only:
        return make_trainer(args).train
    cfg = _checked_cfg(args)
    checks.check_test_sets(cfg.DATASETS.TEST)
    _freeze_and_record(cfg, args)
    model = load_for_evaluation(cfg, resume=args.resume, allow_partial=args.allow_partial)
    return lambda: FCOSTrainer.test(cfg, model)


def make_trainer(args: argparse.Namespace) -> FCOSTrainer:
    """Check everything that a training needs, build the trainer and load its weights.

    Raises:
        KeyError, FileNotFoundError, ValueError: see :func:`main`.
    """
    cfg = _checked_cfg(args)
    checks.check_batch(cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE)
    scale_to_batch(cfg)
    tested = [] if args.skip_test else checks.check_test_sets(cfg.DATASETS.TEST)
    records = training_records(cfg)
    checks.warn_of_shared_images(records, tested)
    apply_epochs(cfg, len(records))
    _freeze_and_record(cfg, args)
    trainer = FCOSTrainer(cfg, skip_test=args.skip_test, records=records)
    trainer.resume_or_load(resume=args.resume)
    logger.info("\n%s", startup_block(trainer, records))
    return trainer


def load_for_evaluation(cfg, resume: bool = False, allow_partial: bool = False) -> nn.Module:
    """Build the model and load MODEL.WEIGHTS.

    Args:
        resume: load the last checkpoint of OUTPUT_DIR instead.
        allow_partial: evaluate although weights of the head are missing.

    Raises:
        ValueError: if the head did not load.
    """
    model = FCOSTrainer.build_model(cfg)
    checkpointer = FCOSCheckpointer(model, cfg.OUTPUT_DIR)
    checkpointer.prefer_average = cfg.SOLVER.EMA.ENABLED
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    loaded = bool(cfg.MODEL.WEIGHTS) or (resume and checkpointer.has_checkpoint())
    missing = checkpointer.missing_head_keys
    if (missing or not loaded) and not allow_partial:
        what = f"{len(missing)} weights of the head, such as {missing[0]}" if loaded else "weights"
        raise ValueError(
            f"--eval-only without {what}: the result would be that of a random head. Give the "
            "trained model as MODEL.WEIGHTS, or --allow-partial"
        )
    return model


def load_cfg(args: argparse.Namespace):
    """Config of a config file (a path, or a name in the package) and overrides."""
    cfg = get_cfg()
    if args.config_file:
        args.config_file = get_config_file(args.config_file)
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


def setup(args: argparse.Namespace):
    """Frozen config on an available device; starts the log files in OUTPUT_DIR."""
    cfg = load_cfg(args)
    _start_logging(cfg)
    _freeze_and_record(cfg, args)
    return cfg


def _checked_cfg(args: argparse.Namespace):
    """Config with the data of the arguments, and datasets that exist and fit the classes."""
    check_arguments(args)
    cfg = load_cfg(args)
    _start_logging(cfg)
    checks.warn_of_keys_without_effect(args.opts[::2])
    use_data_of_arguments(cfg, args)
    register_custom(cfg.DATASETS.CUSTOM, os.path.join(cfg.OUTPUT_DIR, "datasets"))
    _complete_classes(cfg, args)
    check_precision(cfg.TEST.PRECISION, torch.device(cfg.MODEL.DEVICE), "TEST.PRECISION")
    return cfg


def _start_logging(cfg) -> None:
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fcos_d2")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        logger.warning("CUDA is not available: running on the CPU")


def _complete_classes(cfg, args: argparse.Namespace) -> None:
    """Take the number and names of classes from the data, and check all datasets."""
    tested = () if args.skip_test else cfg.DATASETS.TEST
    names = [*(() if args.eval_only else cfg.DATASETS.TRAIN), *tested]
    classes = checks.class_names(names[0]) if names else None
    if args.num_classes == "auto":
        if classes is None:
            raise ValueError(
                f"--num-classes auto: the classes of {names[:1]} are not known before it is "
                "loaded; give their number"
            )
        cfg.MODEL.FCOS.NUM_CLASSES = len(classes)
    elif args.num_classes is not None:
        cfg.MODEL.FCOS.NUM_CLASSES = int(args.num_classes)
    checks.check_datasets(cfg.MODEL.FCOS.NUM_CLASSES, names)
    if classes and not args.eval_only:
        cfg.MODEL.FCOS.CLASS_NAMES = list(classes)


def _freeze_and_record(cfg, args: argparse.Namespace) -> None:
    cfg.freeze()
    default_setup(cfg, args)
    if cfg.SOLVER.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def _main_with_clear_end(args: argparse.Namespace) -> None:
    try:
        proceed = prepare(args)
    except (KeyError, FileNotFoundError, ValueError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        logger.debug("cause of the message below", exc_info=True)
        raise SystemExit(f"train_net.py: {text}") from error
    try:
        proceed()  # any other exception here deserves its traceback
    except FloatingPointError as error:
        raise SystemExit(f"train_net.py: {error}") from error
    except torch.cuda.OutOfMemoryError as error:
        raise SystemExit(
            f"train_net.py: {error}\nTo need less memory: SOLVER.ACCUMULATE 2 or more, a smaller "
            "SOLVER.IMS_PER_BATCH, a smaller INPUT.MIN_SIZE_TRAIN, or SOLVER.AMP.ENABLED True"
        ) from error
