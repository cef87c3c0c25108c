"""Arguments of ``train_net.py``, and the data that they name."""

import argparse

from detectron2.engine import default_argument_parser

__all__ = ["check_arguments", "make_parser", "use_data_of_arguments"]


def make_parser() -> argparse.ArgumentParser:
    """Parser of detectron2's arguments and ours."""
    parser = default_argument_parser()
    parser.set_defaults(dist_url="auto")
    parser.add_argument("--skip-test", action="store_true", help="train without any evaluation")
    about = "your own dataset, without code; --num-classes is then auto unless given"
    data = parser.add_argument_group("data", about)
    for split in ("train", "val"):
        data.add_argument(f"--{split}-json", metavar="FILE", help="annotations in COCO's format")
        data.add_argument(f"--{split}-images", metavar="FOLDER", help="their images")
    data.add_argument("--yolo", metavar="YAML", help="data.yaml of a YOLO dataset")
    data.add_argument(
        "--voc", metavar="FOLDER", help="VOC dataset with ImageSets/Main/train.txt and val.txt"
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


def check_arguments(args: argparse.Namespace) -> None:
    """Check that overrides are KEY VALUE pairs, and that several machines have an address.

    Raises:
        ValueError: naming the flag that comes too late, the odd number of words, or the missing
            argument.
    """
    opts = args.opts
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
    if args.num_machines > 1 and args.dist_url == "auto":
        raise ValueError(
            "--num-machines needs --dist-url tcp://HOST:PORT, an address of machine 0 that all "
            "machines reach"
        )


def use_data_of_arguments(cfg, args: argparse.Namespace) -> None:
    """Put the data that the command line names into DATASETS.CUSTOM, TRAIN and TEST.

    Raises:
        ValueError: if a JSON file comes without its images, or formats are mixed.
    """
    given = [name for name in ("yolo", "voc", "train_json", "val_json") if getattr(args, name)]
    if {"yolo", "voc"} & set(given) and len(given) > 1:
        options = ", ".join("--" + name.replace("_", "-") for name in given)
        raise ValueError(f"{options}: give the data in one format")
    train, val = _spec_of_arguments(args, "train"), _spec_of_arguments(args, "val")
    specs = [spec for spec in (train, val) if spec]
    if not specs:
        return
    if train:
        cfg.DATASETS.TRAIN = (train["name"],)
    cfg.DATASETS.TEST = (val["name"],) if val else ()
    if args.num_classes is None:
        args.num_classes = "auto"
    names = [spec["name"] for spec in specs]
    others = [spec for spec in cfg.DATASETS.CUSTOM if spec.get("name") not in names]
    cfg.DATASETS.CUSTOM = [*others, *specs]


def _spec_of_arguments(args: argparse.Namespace, split: str) -> dict | None:
    name = f"custom_{split}"
    for kind in ("yolo", "voc"):
        if getattr(args, kind):
            return {"name": name, kind: getattr(args, kind), "split": split}
    json_file, images = getattr(args, f"{split}_json"), getattr(args, f"{split}_images")
    if bool(json_file) != bool(images):
        raise ValueError(f"--{split}-json and --{split}-images belong together: one is missing")
    return {"name": name, "json": json_file, "images": images} if json_file else None
