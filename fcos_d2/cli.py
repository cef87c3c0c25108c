"""``fcos-d2 COMMAND`` or ``python -m fcos_d2 COMMAND``."""

import argparse
import json
import os
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
    plot = commands.add_parser("plot", help="draw the curves of a training")
    plot.add_argument("folder", metavar="OUTPUT_DIR", help="of the training; holds metrics.json")
    plot.add_argument("--output", metavar="FILE", help="default: OUTPUT_DIR/curves.png")
    plot.set_defaults(run=_plot)
    weights = commands.add_parser(
        "fetch-weights", help="EfficientNet-Lite0's ImageNet weights, which small.yaml starts from"
    )
    weights.set_defaults(run=_fetch_weights)
    _add_detect(commands)
    _add_benchmark(commands)
    _add_export(commands)
    doctor = commands.add_parser("doctor", help="versions and known problems, for a bug report")
    doctor.set_defaults(run=_doctor)
    configs = commands.add_parser("configs", help="list the configs that travel with fcos_d2")
    configs.set_defaults(run=_configs)
    _add_check_data(commands)
    return parser


def _add_check_data(commands: argparse._SubParsersAction) -> None:
    check = commands.add_parser(
        "check-data", help="look for everything that can be wrong with a data set, before training"
    )
    kinds = check.add_mutually_exclusive_group(required=True)
    kinds.add_argument("--json", metavar="FILE", help="training annotations in COCO's format")
    kinds.add_argument("--voc", metavar="FOLDER", help="a Pascal VOC folder, such as VOC2007")
    kinds.add_argument("--yolo", metavar="FILE", help="data.yaml of a YOLO folder")
    check.add_argument("--images", metavar="DIR", help="image folder of --json")
    check.add_argument("--split", metavar="NAME", help="of --voc or --yolo; default: train")
    check.add_argument("--val-json", metavar="FILE", help="a second set, compared with the first")
    check.add_argument("--val-images", metavar="DIR", help="image folder of --val-json")
    check.add_argument("--val-split", metavar="NAME", help="another split of --voc or --yolo")
    check.add_argument(
        "--config",
        default="fcos_R_50_FPN_1x.yaml",
        help="decides how images are resized and boxes assigned; default: %(default)s",
    )
    check.add_argument("--min-size", type=int, metavar="PX", help="instead of the config's 800")
    check.add_argument("--max-size", type=int, metavar="PX", help="instead of the config's 1333")
    check.add_argument("--pictures", metavar="DIR", help="save pictures with the bad boxes drawn")
    check.add_argument("--fast", action="store_true", help="do not decode the images")
    check.set_defaults(run=_check_data)


def _add_detect(commands) -> None:
    detect = commands.add_parser(
        "detect", help="detections on pictures, videos or a camera, into a folder"
    )
    detect.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="picture, video, folder, quoted glob pattern, or camera:0",
    )
    detect.add_argument(
        "--model",
        required=True,
        metavar="FOLDER_OR_CONFIG",
        help="folder of training or of `convert`, or a config (see `configs`)",
    )
    detect.add_argument("--weights", metavar="W", help="path or address; default: the model's own")
    detect.add_argument(
        "--output", default="detections", metavar="DIR", help="results (default: detections)"
    )
    detect.add_argument(
        "--threshold", type=float, default=0.3, metavar="T", help="lowest score (default: 0.3)"
    )
    detect.add_argument(
        "--classes", type=_words, metavar="A,B", help="only these classes (default: all)"
    )
    detect.add_argument(
        "--batch-size", type=int, metavar="N", help="default: 1 on the CPU, 8 on a GPU"
    )
    detect.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1; default: a GPU, if any")
    detect.add_argument("--precision", default="fp32", choices=["fp32", "bf16", "fp16"])
    _add_compile(detect)
    detect.add_argument(
        "--tile", type=int, metavar="PX", help="look at larger pictures in tiles of this side"
    )
    detect.add_argument(
        "--overlap", type=float, default=0.2, metavar="SHARE", help="of tiles (default: 0.2)"
    )
    detect.add_argument(
        "--format",
        type=_words,
        default=["json", "jsonl"],
        metavar="F,G",
        help="of json (COCO's), jsonl (always written), csv (default: json,jsonl)",
    )
    detect.add_argument("--no-pictures", action="store_true", help="draw nothing")
    detect.add_argument("--recursive", action="store_true", help="look into folders below, too")
    detect.add_argument(
        "--max-frames", type=int, metavar="N", help="of a camera (default: until Ctrl-C)"
    )
    detect.set_defaults(run=_detect)


def _add_benchmark(commands) -> None:
    benchmark = commands.add_parser(
        "benchmark", help="how fast a model is here: network, post-processing, end to end"
    )
    benchmark.add_argument(
        "--model",
        required=True,
        metavar="FOLDER_OR_CONFIG",
        help="folder of training or of `convert`, or a config, which alone gets random weights",
    )
    benchmark.add_argument("--weights", metavar="W", help="path; default: the folder's own")
    benchmark.add_argument(
        "--batch-size", type=int, nargs="+", default=[1], metavar="N", help="default: 1"
    )
    benchmark.add_argument(
        "--size",
        nargs="+",
        metavar="HxW",
        help="of the network's input in pixels, such as 512x640; default: the config's test size",
    )
    benchmark.add_argument(
        "--precision", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"]
    )
    _add_compile(benchmark)
    benchmark.add_argument(
        "--device", metavar="D", help="cpu, cuda, cuda:1; default: a GPU, if any"
    )
    benchmark.add_argument("--threads", type=int, metavar="N", help="of PyTorch on the CPU")
    benchmark.add_argument(
        "--runs", type=int, default=10, metavar="N", help="of each case (default: 10)"
    )
    benchmark.add_argument("--json", metavar="FILE", help="write all numbers there, too")
    benchmark.set_defaults(run=_benchmark)


def _add_compile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compile",
        default="",
        metavar="MODE",
        choices=["default", "reduce-overhead", "max-autotune"],
        help="torch.compile the network: default, reduce-overhead (with CUDA graphs) or "
        "max-autotune; slow at the start",
    )


def _fail(command: str, error: Exception, status: int) -> int:
    """Say what went wrong; returns the exit status."""
    text = error.args[0] if isinstance(error, KeyError) else error  # its str() is a repr
    print(f"{command}: {text}", file=sys.stderr)
    return status


def _add_export(commands) -> None:
    export = commands.add_parser("export", help="a model as an ONNX, TorchScript or torch file")
    export.add_argument(
        "--model",
        required=True,
        metavar="FOLDER_OR_CONFIG",
        help="folder of training or of `convert`, or a config (see `configs`)",
    )
    export.add_argument("--weights", metavar="W", help="path or address; default: the model's own")
    export.add_argument("--format", default="onnx", choices=["onnx", "torchscript", "torch-export"])
    export.add_argument(
        "--flavour",
        default="complete",
        choices=["complete", "raw"],
        help="complete gives detections (default), raw the network's dense predictions",
    )
    export.add_argument("--output", required=True, metavar="DIR_OR_FILE", help="what to write")
    export.add_argument(
        "--threshold",
        type=float,
        default=0.0,
        metavar="T",
        help="lowest score of the complete flavour (default: all that the model gives)",
    )
    export.add_argument(
        "--max-detections", type=int, metavar="N", help="of one picture, instead of the model's own"
    )
    export.add_argument(
        "--check", nargs="+", metavar="PICTURE", help="compare the file with PyTorch on these"
    )
    export.add_argument(
        "--int8", metavar="FOLDER", help="quantise, too; measures on pictures in this folder"
    )
    export.set_defaults(run=_export)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _quickstart(args: argparse.Namespace) -> int:
    from tabulate import tabulate

    from .quickstart.run import run_quickstart

    try:
        result = run_quickstart(args.opts, say=lambda text: print(f"\n== {text}", flush=True))
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        return _fail("\nquickstart", error, 1)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    row = [result.metrics[name] for name in names]
    print("\nBox AP on neon_trees_val, in percent (APl: no large trees there)")
    print(tabulate([row], headers=names, floatfmt=".2f", tablefmt="github"))
    print(
        f"""
model     {result.weights}
config    {result.config}
metrics   {result.metrics_file}
picture   {result.image}  (yellow: ground truth, cyan: detections)
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
        return _fail("convert", error, 1)
    print(
        f"""{made.num_tensors} tensors of {made.origin} ({made.source}), none left over or missing
model     {made.weights}
config    {made.config}

Evaluate it:
    {sys.executable} train_net.py --eval-only --config-file {made.config}"""
    )
    return 0


def _plot(args: argparse.Namespace) -> int:
    from .evaluation.curves import plot_curves

    picture = args.output or os.path.join(args.folder, "curves.png")
    try:
        plot_curves(os.path.join(args.folder, "metrics.json"), picture)
    except (OSError, ValueError, ImportError) as error:
        return _fail("plot", error, 1)
    print(picture)
    return 0


def _fetch_weights(args: argparse.Namespace) -> int:
    from .data.datasets.builtin import dataset_root
    from .quickstart.pretrained import prepare_efficientnet_lite0

    try:
        print(prepare_efficientnet_lite0(dataset_root()))
    except (OSError, RuntimeError, ValueError) as error:
        return _fail("fetch-weights", error, 1)
    return 0


def _detect(args: argparse.Namespace) -> int:
    """0: all is well. 1: some files failed. 2: none was of use, or wrong arguments. 130: Ctrl-C."""
    from tqdm import tqdm

    from .detect.run import detect_files

    terminal = sys.stderr.isatty()
    with tqdm(unit=" images", disable=not terminal) as bar:

        def progress(done: int, total: int | None) -> None:
            if bar.n == 0 and done > 1:  # what is there from before says nothing of the speed
                bar.initial = bar.n = done - 1
            bar.total = total
            bar.update(done - bar.n)

        try:
            made = detect_files(
                args.inputs,
                args.model,
                args.output,
                weights=args.weights,
                threshold=args.threshold,
                classes=args.classes,
                batch_size=args.batch_size,
                device=args.device,
                precision=args.precision,
                compile_mode=args.compile,
                tile=args.tile,
                overlap=args.overlap,
                formats=args.format,
                pictures=not args.no_pictures,
                recursive=args.recursive,
                max_frames=args.max_frames,
                report=lambda line: tqdm.write(f"detect: {line}", file=sys.stderr),
                on_result=progress,
            )
        except (OSError, ValueError, KeyError) as error:
            bar.close()
            return _fail("detect", error, 2)
        except KeyboardInterrupt:
            bar.close()
            print("detect: stopped; the same command goes on from here", file=sys.stderr)
            return 130
    usable = made.pictures + made.reused
    speed = made.pictures / made.seconds if made.seconds else 0
    alone = made.pictures / made.network_seconds if made.network_seconds else 0
    print(
        f"{made.pictures} images, {made.detections} detections, {len(made.failures)} failures, "
        f"{made.reused} files done before; {speed:.1f} images/s (the network alone: {alone:.1f})"
        f"\nresults   {args.output}"
    )
    return 0 if not made.failures else 1 if usable else 2


def _benchmark(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .inference.benchmark import format_report, parse_size, run_benchmark

    try:
        with tqdm(unit=" rounds", disable=not sys.stderr.isatty(), leave=False) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            report = run_benchmark(
                args.model,
                args.weights,
                batch_sizes=args.batch_size,
                sizes=args.size and [parse_size(text) for text in args.size],
                precisions=args.precision,
                compile_mode=args.compile,
                device=args.device,
                threads=args.threads,
                runs=args.runs,
                on_round=progress,
            )
        print(format_report(report))
        if args.json:
            with open(args.json, "w", encoding="utf-8") as file:
                json.dump(report.to_dict(), file, indent=1)
    except (OSError, ValueError, KeyError) as error:
        return _fail("benchmark", error, 2)
    return 0


def _export(args: argparse.Namespace) -> int:
    """0: all is well. 1: the file differs from PyTorch. 2: nothing was exported."""
    from .export.check import check_export, differences_table
    from .export.run import export_int8, export_model
    from .inference.predictor import Predictor

    try:
        if args.int8 and args.format != "onnx":
            raise ValueError("--int8 is for --format onnx")
        predictor = Predictor.from_pretrained(args.model, args.weights, device="cpu")
        path = export_model(
            predictor,
            args.output,
            kind=args.format,
            flavour=args.flavour,
            min_score=args.threshold,
            max_detections=args.max_detections,
            source=" ".join(filter(None, (args.model, args.weights))),
        )
        print(f"model     {path}\nside-car  {path.with_suffix('.json')}", flush=True)
        if args.int8:
            print(f"int8      {export_int8(path, predictor, args.int8)}", flush=True)
        if not args.check:
            return 0
        found = check_export(path, predictor, args.check, min_score=args.threshold)
    except (ImportError, OSError, ValueError, KeyError) as error:
        return _fail("export", error, 2)
    print(f"\nLargest differences from PyTorch\n{differences_table(found)}")
    return int(not all(difference.ok for difference in found))


def _doctor(args: argparse.Namespace) -> int:
    from .config import config_folder
    from .utils.doctor import report
    from .version import __version__

    package = os.path.dirname(os.path.abspath(__file__))
    text, problems = report(
        {"fcos_d2": f"{__version__}, {package}", "configs": str(config_folder())}
    )
    print(text)
    for problem in problems:
        print(f"problem: {problem}")
    return int(bool(problems))


def _configs(args: argparse.Namespace) -> int:
    from .config import list_configs

    print("\n".join(list_configs()))
    return 0


def _check_data(args: argparse.Namespace) -> int:
    from .data.check.dataset import check_dataset
    from .data.check.learnable import input_rule
    from .data.check.report import class_table, findings_table, save_images

    try:
        train, val = _data_sets(args)
        rule = input_rule(args.config, min_size=args.min_size, max_size=args.max_size)
        findings = check_dataset(train, val, rule=rule, fast=args.fast, progress=True)
        print(class_table(train, val))
        print(f"\n{findings_table(findings)}")
        if args.pictures:
            saved = save_images(findings, args.pictures)
            print(f"\n{saved} pictures in {args.pictures}")
    except (OSError, ValueError, KeyError) as error:
        return _fail("check-data", error, 2)
    return int(any(finding.severity == "error" for finding in findings))


def _data_sets(args: argparse.Namespace) -> tuple:
    """What `check-data` is to look at: train, and val or None.

    Raises:
        ValueError: for arguments that do not go together; FileNotFoundError and ValueError for
            files that cannot be used.
    """
    from .data.datasets.coco import load_coco
    from .data.datasets.voc import read_voc
    from .data.datasets.yolo import read_yolo

    coco = args.json is not None
    for given, needed, partner in (
        (coco, args.images, "--json needs --images DIR"),
        (args.images, coco, "--images is the folder of --json"),
        (args.val_json, args.val_images, "--val-json needs --val-images DIR"),
        (args.val_images, args.val_json, "--val-images is the folder of --val-json"),
        (
            args.split or args.val_split,
            not coco,
            "--split and --val-split are for --voc and --yolo",
        ),
        (args.val_json, not args.val_split, "either --val-json or --val-split, not both"),
    ):
        if given and not needed:
            raise ValueError(partner)
    val = load_coco(args.val_json, args.val_images) if args.val_json else None
    if coco:
        return load_coco(args.json, args.images), val
    read, place = (read_voc, args.voc) if args.voc else (read_yolo, args.yolo)
    if args.val_split:
        val = read(place, args.val_split)
    return read(place, args.split or "train"), val
