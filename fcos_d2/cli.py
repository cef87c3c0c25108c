"""``fcos-d2 COMMAND`` or ``python -m fcos_d2 COMMAND``."""

import argparse
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    args = _parser().parse_args(argv)
    return args.run(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fcos-d2", description="FCOS for detectron2")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    quickstart = commands.add_parser(
        "quickstart", help="train, evaluate and draw a tree detector, in minutes on a CPU"
    )
    quickstart.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides"
    )
    quickstart.set_defaults(run=_quickstart)
    convert = commands.add_parser(
        "convert", help="another project's FCOS checkpoint -> a checkpoint and config of this one"
    )
    convert.add_argument("weights", metavar="WEIGHTS", help="their file")
    convert.add_argument("--output", required=True, metavar="DIR", help="where to write the result")
    convert.add_argument(
        "--from",
        dest="origin",
        metavar="FORMAT",
        help="official, adelaidet, detectron2, torchvision or mmdet; recognised if left out",
    )
    convert.add_argument(
        "--config",
        metavar="CONFIG",
        help="their YAML (official, AdelaiDet), or the name of one of ours (see `configs`); "
        "known for published files",
    )
    convert.set_defaults(run=_convert)
    configs = commands.add_parser("configs", help="list the configs that travel with fcos_d2")
    configs.set_defaults(run=_configs)
    return parser


def _quickstart(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from .quickstart import run_quickstart

    try:
        result = run_quickstart(args.opts, say=lambda text: print(f"\n== {text}", flush=True))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f"\nquickstart: {text}", file=sys.stderr)
        return 1
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    row = [result.metrics[name] for name in names]
    print("\nBox AP on neon_trees_val, in percent (APl: no large trees there)")
    print(tabulate([row], headers=names, floatfmt=".2f", tablefmt="github"))
    print(
        f"""
model     {result.weights}
config    {result.config}
metrics   {result.metrics_file}
picture   {result.picture}  (yellow: ground truth, cyan: detections)
curves    {result.curves}

Next, test it in another forest, in Florida instead of Yellowstone:
    {sys.executable} train_net.py --eval-only --config-file {result.config} \\
        MODEL.WEIGHTS {result.weights} DATASETS.TEST '("neon_trees_osbs",)' \\
        INPUT.MIN_SIZE_TEST 400 INPUT.MAX_SIZE_TEST 400"""
    )
    return 0


def _convert(args: argparse.Namespace) -> int:
    from .checkpoint.convert import convert

    try:
        made = convert(args.weights, args.output, origin=args.origin, config=args.config)
    except (OSError, ValueError, KeyError) as error:
        text = error.args[0] if isinstance(error, KeyError) else error
        print(f"convert: {text}", file=sys.stderr)
        return 1
    print(
        f"""{made.num_tensors} tensors of {made.origin} ({made.source}), none left over or missing
model     {made.weights}
config    {made.config}

Evaluate it:
    {sys.executable} train_net.py --eval-only --config-file {made.config}"""
    )
    return 0


def _configs(args: argparse.Namespace) -> int:
    from .model_zoo import list_configs

    print("\n".join(list_configs()))
    return 0
