"""``fcos-d2 COMMAND`` or ``python -m fcos_d2 COMMAND``.

Exit status: 0 if all went well; 1 if the work was done with failures, such as files that could not
be read or differences that a check found; 2 for wrong input; 130 after Ctrl-C.

Commands import what they need when they run, so that ``--help`` does not wait for it.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import model, training

__all__ = ["COMMANDS", "Command", "main"]

# Errors whose message is written for the user; other errors are bugs and keep their traceback.
_USER_ERRORS = (OSError, ValueError, KeyError, ImportError)


@dataclass(frozen=True)
class Command:
    """One command of ``fcos-d2``.

    Attributes:
        help: one line for ``fcos-d2 --help``.
        run: does the work and returns the exit status.
        add_arguments: adds the arguments of the command to a parser.
        stopped: message after Ctrl-C.
        fetches: True if a RuntimeError means a failed download.
    """

    help: str
    run: Callable[[Namespace], int]
    add_arguments: Callable[[ArgumentParser], None] = lambda parser: None
    stopped: str = "stopped"
    fetches: bool = False


COMMANDS = {
    "quickstart": Command(
        "train, evaluate and draw a tree detector, in minutes on a CPU",
        training.quickstart,
        training.quickstart_arguments,
        fetches=True,
    ),
    "convert": Command(
        "convert an FCOS checkpoint of another project to a checkpoint and config of this one",
        training.convert,
        training.convert_arguments,
    ),
    "plot": Command("draw the curves of a training", training.plot, training.plot_arguments),
    "fetch-weights": Command(
        "fetch EfficientNet-Lite0's ImageNet weights, which small.yaml starts from",
        training.fetch_weights,
        fetches=True,
    ),
    "detect": Command(
        "detect in images, videos or a camera; results go into a folder",
        model.detect,
        model.detect_arguments,
        stopped="stopped; the same command continues from here",
    ),
    "benchmark": Command(
        "measure the speed of a model: network, post-processing, end to end",
        model.benchmark,
        model.benchmark_arguments,
    ),
    "export": Command(
        "write a model as an ONNX, TorchScript or torch.export file",
        model.export,
        model.export_arguments,
    ),
    "doctor": Command("print versions and known problems, for a bug report", training.doctor),
    "configs": Command("list the configs that are installed with fcos_d2", training.configs),
    "check-data": Command(
        "find everything that can be wrong with a dataset, before training",
        training.check_data,
        training.check_data_arguments,
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: words after ``fcos-d2``; default is ``sys.argv[1:]``.

    Returns:
        The exit status.
    """
    args = _parser().parse_args(argv)
    command = COMMANDS[args.command]
    expected = (*_USER_ERRORS, RuntimeError) if command.fetches else _USER_ERRORS
    try:
        return command.run(args)
    except KeyboardInterrupt:
        print(f"{args.command}: {command.stopped}", file=sys.stderr)
        return 130
    except expected as error:
        # str() of a KeyError is a repr, with quotes.
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"{args.command}: {text}", file=sys.stderr)
        return 2


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="fcos-d2", description="FCOS for detectron2")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.help))
    return parser
