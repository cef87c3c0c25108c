"""What ``train_net.py`` does, callable from Python."""

import argparse
import logging
import os
from collections.abc import Callable, Sequence

import torch
from detectron2.engine import default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..config import get_cfg, get_config_file
from ..data.datasets.custom import register_custom
from ..data.loader import load_records, training_records
from ..utils.device import check_precision
from .checks import check_batch, check_datasets, class_names
from .launch import launch
from .schedule import apply_epochs, scale_to_batch
from .summary import startup_block
from .trainer import FCOSTrainer

__all__ = ["check_opts", "load_cfg", "main", "make_parser", "run", "setup"]

logger = logging.getLogger(__name__)

_OTHER_DETECTORS = (
    "MODEL.RETINANET.",
    "MODEL.ROI_",
    "MODEL.RPN.",
    "MODEL.ANCHOR_GENERATOR.",
    "MODEL.PROPOSAL_GENERATOR.",
)


def make_parser() -> argparse.ArgumentParser:
    """detectron2's arguments, and ours."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    parser.add_argument("--skip-test", action="store_true", help="train without any evaluation")
    data = parser.add_argument_group(
        "data", "your own, without code; then --num-classes is auto unless given"
    )
    for split in ("train", "val"):
        data.add_argument(f"--{split}-json", metavar="FILE", help="annotations in COCO's format")
        data.add_argument(f"--{split}-images", metavar="FOLDER", help="their images")
    data.add_argument("--yolo", metavar="YAML", help="data.yaml of a YOLO data set")
    data.add_argument(
        "--voc", metavar="FOLDER", help="VOC data set with ImageSets/Main/train.txt and val.txt"
    )
    data.add_argument(
        "--num-classes",
        type=_number_or_auto,
        metavar="auto|N",
        help="MODEL.FCOS.NUM_CLASSES; auto counts the categories of the data",
    )
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="with --eval-only: evaluate although weights of the head are missing",
    )
    return parser


def _number_or_auto(text: str) -> str:
    if text != "auto" and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor auto")
    return text


def run(argv: list[str] | None = None) -> None:
    """The command line: parse, check, start the processes, end with one line on user errors."""
    parser = make_parser()
    args = parser.parse_args(argv)
    try:
        check_opts(args.opts)
        _check_machines(args)
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
    """Everything of :func:`main` that can fail for what the user gave.

    Returns:
        What remains to do: training or evaluation.
    """
    check_opts(args.opts)
    cfg = load_cfg(args)
    _start_logging(cfg)
    warn_of_keys_without_effect(args.opts[::2])
    use_data_of_arguments(cfg, args)
    register_custom(cfg.DATASETS.CUSTOM, os.path.join(cfg.OUTPUT_DIR, "datasets"))
    _complete_classes(cfg, args)
    check_precision(cfg.TEST.PRECISION, torch.device(cfg.MODEL.DEVICE), "TEST.PRECISION")
    if args.eval_only:
        check_test_sets(cfg.DATASETS.TEST)
        _freeze_and_record(cfg, args)
        model = load_for_evaluation(cfg, resume=args.resume, allow_partial=args.allow_partial)
        return lambda: FCOSTrainer.test(cfg, model)
    check_batch(cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE)
    scale_to_batch(cfg)
    tested = [] if args.skip_test else check_test_sets(cfg.DATASETS.TEST)
    records = training_records(cfg)
    warn_of_shared_images(records, tested)
    apply_epochs(cfg, len(records))
    _freeze_and_record(cfg, args)
    trainer = FCOSTrainer(cfg, skip_test=args.skip_test, records=records)
    trainer.resume_or_load(resume=args.resume)
    logger.info("\n%s", startup_block(trainer, records))
    return trainer.train


def load_for_evaluation(cfg, resume: bool = False, allow_partial: bool = False) -> nn.Module:
    """Build the model and load MODEL.WEIGHTS.

    Args:
        cfg: the config.
        resume: take OUTPUT_DIR's last checkpoint instead.
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
    """Config file (also by its name in the package) and overrides -> config."""
    cfg = get_cfg()
    if args.config_file:
        args.config_file = get_config_file(args.config_file)
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    return cfg


def setup(args: argparse.Namespace):
    """:func:`load_cfg`, frozen, on a device that is there; starts log files in OUTPUT_DIR."""
    cfg = load_cfg(args)
    _start_logging(cfg)
    _freeze_and_record(cfg, args)
    return cfg


def check_test_sets(names: Sequence[str]) -> list[dict]:
    """Every test set can be read and has something to compare with.

    Returns:
        Their records.

    Raises:
        ValueError: naming the one that cannot or has not.
    """
    everything = []
    for name in names:
        records = load_records([name])
        everything += records
        if not any(r.get("annotations") for r in records):
            raise ValueError(
                f"the test set {name} has no annotations, so no AP can be computed (COCO's "
                "test-dev has none). Name another one in DATASETS.TEST, or train with --skip-test"
            )
    return everything


def warn_of_shared_images(trained: Sequence[dict], tested: Sequence[dict]) -> None:
    """A picture in both sets makes AP look better than it is."""
    files = {record["file_name"] for record in trained}
    shared = sorted(files & {record["file_name"] for record in tested})
    if shared:
        logger.warning(
            "%d of %d test images are also trained on, such as %s: AP will look too good",
            len(shared),
            len(tested),
            shared[0],
        )


def warn_of_keys_without_effect(keys: Sequence[str]) -> None:
    """Other detectors' keys are in every Detectron2 config, and do nothing here."""
    idle = [key for key in keys if str(key).startswith(_OTHER_DETECTORS)]
    if idle:
        logger.warning("No effect on FCOS: %s. Its keys are those of MODEL.FCOS", ", ".join(idle))


def use_data_of_arguments(cfg, args: argparse.Namespace) -> None:
    """Put the data that the command line names into DATASETS.CUSTOM, TRAIN and TEST.

    Raises:
        ValueError: if a JSON file comes without its images, or formats are mixed.
    """
    given = [name for name in ("yolo", "voc", "train_json", "val_json") if getattr(args, name)]
    if {"yolo", "voc"} & set(given) and len(given) > 1:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{options}: give the data in one format")
    specs = {}
    for split, key in (("train", "TRAIN"), ("val", "TEST")):
        spec = _spec_of_arguments(args, split)
        if spec is not None:
            specs[key] = spec
            cfg.DATASETS[key] = (spec["name"],)
    if not specs:
        return
    if "TEST" not in specs:
        cfg.DATASETS.TEST = ()
    if args.num_classes is None:
        args.num_classes = "auto"
    known = [
        s for s in cfg.DATASETS.CUSTOM if s.get("name") not in (s2["name"] for s2 in specs.values())
    ]
    cfg.DATASETS.CUSTOM = [*known, *specs.values()]


def _spec_of_arguments(args: argparse.Namespace, split: str) -> dict | None:
    name = f"custom_{split}"
    for form in ("yolo", "voc"):
        if getattr(args, form):
            return {"name": name, form: getattr(args, form), "split": split}
    json_file, images = getattr(args, f"{split}_json"), getattr(args, f"{split}_images")
    if bool(json_file) != bool(images):
        raise ValueError(f"--{split}-json and --{split}-images belong together: one is missing")
    return {"name": name, "json": json_file, "images": images} if json_file else None


def _start_logging(cfg) -> None:
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="fcos_d2")
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
        logger.warning("CUDA is not available: running on the CPU")


def _complete_classes(cfg, args: argparse.Namespace) -> None:
    """Take the number and names of classes from the data, and check all data sets."""
    tested = () if args.skip_test else cfg.DATASETS.TEST
    names = [*(() if args.eval_only else cfg.DATASETS.TRAIN), *tested]
    classes = class_names(names[0]) if names else None
    if args.num_classes == "auto":
        if classes is None:
            raise ValueError(
                f"--num-classes auto: the data set {names[:1]} does not tell its classes; give "
                "their number"
            )
        cfg.MODEL.FCOS.NUM_CLASSES = len(classes)
    elif args.num_classes is not None:
        cfg.MODEL.FCOS.NUM_CLASSES = int(args.num_classes)
    check_datasets(cfg.MODEL.FCOS.NUM_CLASSES, names)
    if classes and not args.eval_only:
        cfg.MODEL.FCOS.CLASS_NAMES = list(classes)


def _freeze_and_record(cfg, args: argparse.Namespace) -> None:
    cfg.freeze()
    default_setup(cfg, args)
    if cfg.SOLVER.DETERMINISTIC:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


def check_opts(opts: list[str]) -> None:
    """KEY VALUE overrides are pairs and contain no flags.

    Raises:
        ValueError: naming the flag that came too late, or the key without a value.
    """
    late = [token for token in opts if str(token).startswith("--")]
    if late:
        raise ValueError(
            f"{late[0]} comes after the KEY VALUE overrides, where it would be ignored; put flags "
            "before them"
        )
    if len(opts) % 2:
        raise ValueError(
            f"overrides are KEY VALUE pairs, but there are {len(opts)} words: {' '.join(opts)}"
        )


def _check_machines(args: argparse.Namespace) -> None:
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError(
            "--num-machines needs --dist-url tcp://HOST:PORT, an address of machine 0 that all "
            "machines reach"
        )


def _main_with_clear_end(args: argparse.Namespace) -> None:
    try:
        proceed = prepare(args)
    except (KeyError, FileNotFoundError, ValueError) as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        logger.debug("what led to the message below", exc_info=True)
        raise SystemExit(f"train_net.py: {text}") from error
    try:
        proceed()  # any other exception in here is worth its traceback
    except FloatingPointError as error:
        raise SystemExit(f"train_net.py: {error}") from error
    except torch.cuda.OutOfMemoryError as error:
        raise SystemExit(
            f"train_net.py: {error}\nTo need less memory: SOLVER.ACCUMULATE 2 or more, a smaller "
            "SOLVER.IMS_PER_BATCH, a smaller INPUT.MIN_SIZE_TRAIN, or SOLVER.AMP.ENABLED True"
        ) from error
