"""Commands that run or write a model: detect, benchmark and export."""

import argparse
import contextlib
import dataclasses
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator


def detect_arguments(parser: ArgumentParser) -> None:
    """Destinations are named like the fields of ``DetectOptions``."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image, video, folder, quoted glob pattern, or camera:0",
    )
    _add_model(parser)
    add = parser.add_argument
    add("--output", default="detections", metavar="DIR", help="results (default: detections)")
    add("--threshold", type=float, default=0.3, metavar="T", help="lowest score (default: 0.3)")
    add("--classes", type=_words, metavar="A,B", help="only these classes (default: all)")
    add("--batch-size", type=int, metavar="N", help="default: 1 on the CPU, 8 on a GPU")
    add("--tile", type=int, metavar="PX", help="cut larger images into tiles with this side")
    add(
        "--overlap",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="overlap of neighboring tiles (default: 0.2)",
    )
    add(
        "--format",
        dest="formats",
        type=_words,
        default=["json"],
        metavar="F,G",
        help="files beside the JSON lines: json (COCO results), csv (default: json)",
    )
    add("--no-pictures", dest="draw", action="store_false", help="do not draw")
    add("--recursive", action="store_true", help="look into folders below, too")
    add("--max-frames", type=int, metavar="N", help="camera frames to read (default: until Ctrl-C)")


def detect(args: Namespace) -> int:
    from tqdm import tqdm

    from ..detect import DetectOptions, detect_files

    names = [field.name for field in dataclasses.fields(DetectOptions)]
    options = DetectOptions(**{name: getattr(args, name) for name in names})
    with _progress_bar("images", leave=True) as progress:
        done = detect_files(
            args.inputs,
            args.model,
            args.output,
            options,
            report=lambda line: tqdm.write(f"detect: {line}", file=sys.stderr),
            on_result=progress,
        )
    speed = done.images / done.seconds if done.seconds else 0
    network_speed = done.images / done.network_seconds if done.network_seconds else 0
    print(
        f"{done.images} images, {done.detections} detections, {len(done.failures)} failures, "
        f"{done.reused} files done before; {speed:.1f} images/s "
        f"(network only: {network_speed:.1f})\nresults   {args.output}"
    )
    if not done.failures:
        return 0
    return 1 if done.images + done.reused else 2


def benchmark_arguments(parser: ArgumentParser) -> None:
    parser.description = "A config without weights gets random weights."
    _add_model(parser, several_precisions=True)
    add = parser.add_argument
    add("--batch-size", type=int, nargs="+", default=[1], metavar="N", help="default: 1")
    add(
        "--size",
        nargs="+",
        metavar="HxW",
        help="input of the network in pixels, such as 512x640; default: the config's test size",
    )
    add("--threads", type=int, metavar="N", help="threads of PyTorch on the CPU")
    add("--runs", type=int, default=10, metavar="N", help="runs of each case (default: 10)")
    add("--json", metavar="FILE", help="also write all numbers to this file")


def benchmark(args: Namespace) -> int:
    from ..inference.benchmark import format_report, parse_size, run_benchmark

    with _progress_bar("rounds", leave=False) as progress:
        report = run_benchmark(
            args.model,
            args.weights,
            batch_sizes=args.batch_size,
            sizes=args.size and [parse_size(text) for text in args.size],
            precisions=args.precision,
            compile_mode=args.compile_mode,
            device=args.device,
            threads=args.threads,
            runs=args.runs,
            on_round=progress,
        )
    print(format_report(report))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report.to_dict(), file, indent=1)
    return 0


def export_arguments(parser: ArgumentParser) -> None:
    _add_model(parser, device=False)
    add = parser.add_argument
    add("--format", default="onnx", choices=["onnx", "torchscript", "torch-export"])
    add(
        "--nms",
        default="inside",
        choices=["inside", "none"],
        help="inside writes a model that returns detections (default), none a model that returns "
        "the network's dense predictions",
    )
    # The spelling of version 0.1.
    add("--flavour", choices=["complete", "raw"], help=argparse.SUPPRESS)
    add("--output", required=True, metavar="DIR_OR_FILE", help="folder or file of the result")
    add(
        "--threshold",
        type=float,
        default=0.0,
        metavar="T",
        help="lowest score, with NMS inside (default: all that the model returns)",
    )
    add("--max-detections", type=int, metavar="N", help="per image; default: the model's own")
    add("--check", nargs="+", metavar="IMAGE", help="compare the file with PyTorch on these images")
    add("--int8", metavar="FOLDER", help="also quantize; calibrates on the images of this folder")


def export(args: Namespace) -> int:
    from ..export import export_int8, export_model
    from ..export.check import check_export, differences_table
    from ..inference.predictor import Predictor

    if args.int8 and args.format != "onnx":
        raise ValueError("--int8 is for --format onnx")
    predictor = Predictor.from_pretrained(args.model, args.weights, device="cpu")
    path = export_model(
        predictor,
        args.output,
        kind=args.format,
        nms={"complete": "inside", "raw": "none"}.get(args.flavour, args.nms),
        min_score=args.threshold,
        max_detections=args.max_detections,
        source=" ".join(filter(None, (args.model, args.weights))),
    )
    print(f"model     {path}\nmetadata  {path.with_suffix('.json')}", flush=True)
    if args.int8:
        print(f"int8      {export_int8(path, predictor, args.int8)}", flush=True)
    if not args.check:
        return 0
    found = check_export(path, predictor, args.check, min_score=args.threshold)
    print(f"\nLargest differences from PyTorch\n{differences_table(found)}")
    return int(not all(difference.ok for difference in found))


def _add_model(
    parser: ArgumentParser, *, device: bool = True, several_precisions: bool = False
) -> None:
    """Add the arguments that choose a model and, with ``device``, how it computes."""
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        required=True,
        metavar="FOLDER_OR_CONFIG",
        help="folder of training or of `convert`, or a config (see `configs`)",
    )
    group.add_argument("--weights", metavar="W", help="path or address; default: the model's own")
    if not device:
        return
    group.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1; default: a GPU if there is one"
    )
    group.add_argument(
        "--precision",
        metavar="P",
        nargs="+" if several_precisions else None,
        default=["fp32"] if several_precisions else "fp32",
        help="fp32 (default), bf16, or fp16 on a GPU; other spellings such as float16 work, too",
    )
    group.add_argument(
        "--compile",
        dest="compile_mode",
        default="",
        metavar="MODE",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="torch.compile the network: default, reduce-overhead (with CUDA graphs) or "
        "max-autotune; slow at the start",
    )


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


@contextlib.contextmanager
def _progress_bar(unit: str, leave: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Progress bar on a terminal; yields a function of the finished and the total number."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", disable=not sys.stderr.isatty(), leave=leave) as bar:

        def update(done: int, total: int | None) -> None:
            if bar.n == 0 and done > 1:  # results of an earlier run must not count for the speed
                bar.initial = bar.n = done - 1
            bar.total = total
            bar.update(done - bar.n)

        yield update
