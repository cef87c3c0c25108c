"""Commands around data, training and checkpoints, and about the installation."""

import argparse
import os
import sys
from argparse import ArgumentParser, Namespace


def quickstart_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides"
    )


def quickstart(args: Namespace) -> int:
    from tabulate import tabulate

    from ..quickstart.run import run_quickstart

    result = run_quickstart(args.opts, say=lambda text: print(f"\n== {text}", flush=True))
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    row = [result.metrics[name] for name in names]
    print("\nBox AP on neon_trees_val, in percent (APl: no large trees there)")
    print(tabulate([row], headers=names, floatfmt=".2f", tablefmt="github"))
    print(
        f"""
model     {result.weights}
config    {result.config}
metrics   {result.metrics_file}
image     {result.image}  (yellow: ground truth, cyan: detections)
curves    {result.curves}

Next, test it in another forest, in Florida instead of Yellowstone:
    {sys.executable} train_net.py --eval-only --config-file {result.config} \\
        MODEL.WEIGHTS {result.weights} DATASETS.TEST '("neon_trees_osbs",)' \\
        INPUT.MIN_SIZE_TEST 400 INPUT.MAX_SIZE_TEST 400"""
    )
    return 0


def convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("weights", metavar="WEIGHTS", help="checkpoint of another project")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the result")
    parser.add_argument(
        "--from",
        dest="origin",
        metavar="FORMAT",
        help="official, adelaidet, detectron2, torchvision or mmdet; default: recognized",
    )
    parser.add_argument(
        "--config",
        metavar="CONFIG",
        help="YAML of the other project (official, AdelaiDet), or a name printed by `configs`; "
        "known for published files",
    )


def convert(args: Namespace) -> int:
    from ..checkpoint.convert import convert

    made = convert(args.weights, args.output, origin=args.origin, config=args.config)
    print(
        f"""{made.num_tensors} tensors of {made.origin} ({made.source}), none left over or missing
model     {made.weights}
config    {made.config}

Evaluate it:
    {sys.executable} train_net.py --eval-only --config-file {made.config}"""
    )
    return 0


def plot_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", metavar="OUTPUT_DIR", help="training folder with metrics.json")
    parser.add_argument("--output", metavar="FILE", help="default: OUTPUT_DIR/curves.png")


def plot(args: Namespace) -> int:
    from ..evaluation.curves import plot_curves

    output = args.output or os.path.join(args.folder, "curves.png")
    plot_curves(os.path.join(args.folder, "metrics.json"), output)
    print(output)
    return 0


def fetch_weights(args: Namespace) -> int:
    from ..data.datasets.builtin import dataset_root
    from ..quickstart.pretrained import prepare_efficientnet_lite0

    print(prepare_efficientnet_lite0(dataset_root()))
    return 0


def doctor(args: Namespace) -> int:
    from ..config import config_folder
    from ..utils.doctor import report
    from ..version import __version__

    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    text, problems = report(
        {"fcos_d2": f"{__version__}, {package}", "configs": str(config_folder())}
    )
    print(text)
    for problem in problems:
        print(f"problem: {problem}")
    return int(bool(problems))


def configs(args: Namespace) -> int:
    from ..config import list_configs

    print("\n".join(list_configs()))
    return 0


def check_data_arguments(parser: ArgumentParser) -> None:
    kinds = parser.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--json", metavar="FILE", help="training annotations in COCO's format")
    kinds.add_argument("--voc", metavar="FOLDER", help="a Pascal VOC folder, such as VOC2007")
    kinds.add_argument("--yolo", metavar="FILE", help="data.yaml of a YOLO folder")
    add = parser.add_argument
    add("--images", metavar="DIR", help="image folder of --json")
    add("--split", metavar="NAME", help="split of --voc or --yolo; default: train")
    add("--val-json", metavar="FILE", help="a second set, compared with the first")
    add("--val-images", metavar="DIR", help="image folder of --val-json")
    add("--val-split", metavar="NAME", help="another split of --voc or --yolo")
    add(
        "--config",
        default="fcos_R_50_FPN_1x.yaml",
        help="decides how images are resized and boxes assigned; default: %(default)s",
    )
    add("--min-size", type=int, metavar="PX", help="instead of the config's 800")
    add("--max-size", type=int, metavar="PX", help="instead of the config's 1333")
    add("--pictures", metavar="DIR", help="save images with the bad boxes drawn")
    add("--fast", action="store_true", help="do not decode the images")


def check_data(args: Namespace) -> int:
    from ..data.check.dataset import check_dataset
    from ..data.check.learnable import input_rule
    from ..data.check.report import class_table, findings_table, save_images

    train, val = _load_datasets(args)
    rule = input_rule(args.config, min_size=args.min_size, max_size=args.max_size)
    findings = check_dataset(train, val, rule=rule, fast=args.fast, progress=True)
    print(class_table(train, val))
    print(f"\n{findings_table(findings)}")
    if args.pictures:
        saved = save_images(findings, args.pictures)
        print(f"\n{saved} pictures in {args.pictures}")
    return int(any(finding.severity == "error" for finding in findings))


def _load_datasets(args: Namespace) -> tuple:
    """Load the training set of `check-data`, and the validation set or None.

    Raises:
        ValueError: for arguments that do not belong together.
        FileNotFoundError, ValueError: for files that cannot be used.
    """
    from ..data.datasets.coco import load_coco
    from ..data.datasets.voc import read_voc
    from ..data.datasets.yolo import read_yolo

    coco, splits = args.json is not None, args.split or args.val_split
    for given, needed, message in (
        (coco, args.images, "--json needs --images DIR"),
        (args.images, coco, "--images is the folder of --json"),
        (args.val_json, args.val_images, "--val-json needs --val-images DIR"),
        (args.val_images, args.val_json, "--val-images is the folder of --val-json"),
        (splits, not coco, "--split and --val-split are for --voc and --yolo"),
        (args.val_json, not args.val_split, "either --val-json or --val-split, not both"),
    ):
        if given and not needed:
            raise ValueError(message)
    val = load_coco(args.val_json, args.val_images) if args.val_json else None
    if coco:
        return load_coco(args.json, args.images), val
    read, path = (read_voc, args.voc) if args.voc else (read_yolo, args.yolo)
    if args.val_split:
        val = read(path, args.val_split)
    return read(path, args.split or "train"), val
