"""fcos_d2, torchvision's FCOS and detectron2's own, timed in one process on the same inputs.

    python benchmarks/side_by_side.py [--runs 9] [--only losses postprocess inference training]
        [--device cpu] [--precision fp32] [--batch 2] [--size 512x640] [--compile] [--json FILE]

On a GPU: --device cuda --precision fp16 --batch 16 --size 800x1344 for the training step.
ResNet-50-FPN, 80 classes, random weights. The order changes from run to run; the table has medians
and the ratio of ours to the better of the others. Losses and post-processing start from the same
head outputs, given to each as its own head gives them. Peak memory is that of the process above
what it held before (CPU, Linux only) or what PyTorch allocated (GPU), where kernels and waits for
the GPU are counted, too. Rows in brackets are ours in other modes.
"""

import argparse
import copy
import ctypes
import json
import platform
import random
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from tabulate import tabulate
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.image_list import ImageList as TorchvisionImages

import fcos_d2
from fcos_d2.inference.benchmark import parse_size
from fcos_d2.modeling.ground_truth import collect_ground_truth
from fcos_d2.modeling.head import Predictions
from fcos_d2.modeling.postprocess import detect_images
from fcos_d2.modeling.speed import fold_detector
from fcos_d2.utils.device import PRECISIONS, autocast

NAMES = ("fcos_d2", "torchvision", "detectron2")
STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80


def build(device: str) -> dict[str, torch.nn.Module]:
    """The three models with random weights, convolutions of the backbone frozen alike."""
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.FCOS.NUM_CLASSES = device, CLASSES
    backbone = FPN(
        ResNet(
            BasicStem(3, 64, norm="FrozenBN"),
            ResNet.make_default_stages(50, norm="FrozenBN", stride_in_1x1=True),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        ["res3", "res4", "res5"],
        256,
        top_block=LastLevelP6P7(256, 256, "p5"),
    )
    head = detectron2_fcos.FCOSHead(
        input_shape=[ShapeSpec(channels=256)] * 5,
        conv_dims=[256] * 4,
        num_classes=CLASSES,
        norm="GN",
    )
    theirs = detectron2_fcos.FCOS(
        backbone=backbone,
        head=head,
        num_classes=CLASSES,
        test_score_thresh=0.05,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
    )
    torchvision = fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES, score_thresh=0.05
    )
    # Without pretrained weights torchvision trains all of the backbone and its norms.
    body = FrozenBatchNorm2d.convert_frozen_batchnorm(torchvision.backbone.body)
    for frozen in (body.conv1, body.layer1):
        frozen.requires_grad_(False)
    models = dict(zip(NAMES, (build_model(cfg), torchvision, theirs), strict=True))
    return {name: model.to(device) for name, model in models.items()}


def random_head_outputs(images: int, height: int, width: int, device: str, spread: float = 1.0):
    """Maps of logits around -5, distances in strides, quality."""
    generator = torch.Generator().manual_seed(0)

    def maps(channels: int, scale: float, shift: float):
        shapes = [(images, channels, -(-height // s), -(-width // s)) for s in STRIDES]
        parts = [torch.randn(shape, generator=generator) * scale + shift for shape in shapes]
        return [part.to(device) for part in parts]

    distances = [m.abs() for m in maps(4, 2.0, 0.5)]
    return maps(CLASSES, spread, -5.0), distances, maps(1, 1.0, 0.0)


def random_boxes(images: int, count: int, height: int, width: int, device: str):
    """Boxes of 8 to 512 pixels, log-uniform, and classes."""
    generator = torch.Generator().manual_seed(count)
    result = []
    for _ in range(images):
        size = torch.exp2(torch.rand(count, 2, generator=generator) * 6 + 3)
        limit = torch.tensor([width, height])
        corner = torch.rand(count, 2, generator=generator) * (limit - size).clamp(min=1)
        boxes = torch.cat((corner, torch.minimum(corner + size, limit)), 1)
        classes = torch.randint(0, CLASSES, (count,), generator=generator)
        result.append((boxes.to(device), classes.to(device)))
    return result


def rows(maps):
    return [m.flatten(2).transpose(1, 2) for m in maps]


def locate(ours, outputs, size):
    shapes = [tuple(m.shape[-2:]) for m in outputs[2]]
    return ours.location_generator(shapes, size, ours.device)


def as_our_head_does(outputs, ours):
    order = torch.channels_last if ours.is_channels_last else torch.contiguous_format
    return [[m.contiguous(memory_format=order) for m in part] for part in outputs]


def loss_runs(models, count: int, device: str) -> dict[str, Callable[[], None]]:
    """Targets, losses and backward to the head outputs."""
    images, height, width = 4, 800, 1344
    truth = random_boxes(images, count, height, width, device)
    outputs = random_head_outputs(images, height, width, device)
    instances = [
        Instances((height, width), gt_boxes=Boxes(boxes), gt_classes=classes)
        for boxes, classes in truth
    ]
    ours, torchvision, theirs = (models[name].train() for name in NAMES)
    locations = locate(ours, outputs, (height, width))
    features = [m.new_zeros(images, 1, *m.shape[2:]) for m in outputs[2]]
    anchors = theirs.anchor_generator(features)
    image_list = TorchvisionImages(
        outputs[0][0].new_zeros(images, 3, height, width), [(height, width)] * images
    )
    torchvision_anchors = torchvision.anchor_generator(image_list, features)
    targets = [{"boxes": boxes, "labels": classes} for boxes, classes in truth]

    batch = [{"instances": x} for x in instances]
    mine = as_our_head_does(outputs, ours)
    # torchvision's heads flatten and concatenate.
    joined = [torch.cat(rows(part), dim=1) for part in outputs]

    def leaves(parts):
        return [[x.detach().requires_grad_() for x in part] for part in parts]

    def run_ours():
        predictions = Predictions(*leaves(mine), locations)
        truth = collect_ground_truth(batch, ours.head.num_classes, ours.device)
        targets = ours.criterion.targets(locations, truth, predictions)
        normalizers = ours.criterion.normalizers(targets)
        sum(ours.criterion(predictions, targets, normalizers).values()).backward()

    def run_torchvision():
        [[logits, distances, quality]] = leaves([joined])
        head = {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": quality}
        sizes = [f.shape[2] * f.shape[3] for f in features]
        losses = torchvision.compute_loss(targets, head, torchvision_anchors, sizes)
        sum(losses.values()).backward()

    def run_detectron2():
        logits, distances, quality = (rows(part) for part in leaves(outputs))
        labels, boxes = theirs.label_anchors(anchors, instances)
        losses = theirs.losses(anchors, logits, labels, distances, boxes, quality)
        sum(losses.values()).backward()

    return dict(zip(NAMES, (run_ours, run_torchvision, run_detectron2), strict=True))


@torch.no_grad()
def postprocess_runs(models, device: str, dense: bool) -> dict[str, Callable[[], None]]:
    """Eight images with 1000 candidates a level or, dense, 5 % of all logits."""
    images, height, width = 8, 800, 1344
    outputs = random_head_outputs(images, height, width, device, spread=1.3 if dense else 0.3)
    for level in () if dense else outputs[0]:
        for logits in level:
            some = torch.randperm(logits.numel())[:1000].to(device)
            logits.view(-1)[some] = torch.linspace(-2.5, 2.5, 1000, device=device)
    ours, torchvision, theirs = (models[name].eval() for name in NAMES)
    locations = locate(ours, outputs, (height, width))
    sizes = [(height, width)] * images
    features = [m.new_zeros(images, 1, *m.shape[2:]) for m in outputs[2]]
    image_list = TorchvisionImages(features[0].new_zeros(images, 3, height, width), sizes)
    lengths = [f.shape[2] * f.shape[3] for f in features]
    anchors = [list(a.split(lengths)) for a in torchvision.anchor_generator(image_list, features)]
    mine = as_our_head_does(outputs, ours)
    flat = [[m.contiguous() for m in rows(part)] for part in outputs]
    head = dict(zip(("cls_logits", "bbox_regression", "bbox_ctrness"), flat, strict=True))
    image_sizes = ImageList(image_list.tensors, sizes)

    @torch.no_grad()
    def run_ours():
        predictions = Predictions(*mine, locations)
        return detect_images(predictions, sizes, ours.postprocess, ours.head.box_coder)

    @torch.no_grad()
    def run_torchvision():
        return torchvision.postprocess_detections(head, anchors, sizes)

    @torch.no_grad()
    def run_detectron2():
        copies = [[m.clone() for m in part] for part in outputs]  # it works in place
        start = time.perf_counter()
        theirs.forward_inference(image_sizes, features, copies)
        return start

    return dict(zip(NAMES, (run_ours, run_torchvision, run_detectron2), strict=True))


def live(models) -> None:
    """Biases at which an untrained head finds many candidates, so that NMS has work."""
    for model in models.values():
        for name, parameter in model.named_parameters():
            if name.endswith(("cls_logits.bias", "cls_score.bias")):
                torch.nn.init.constant_(parameter, -2.0)
            elif name.endswith(("cls_logits.weight", "cls_score.weight")):
                torch.nn.init.normal_(parameter, std=0.03)
            elif name.endswith(("bbox_pred.bias", "bbox_reg.bias")):
                torch.nn.init.constant_(parameter, 1.0)


def inference_runs(models, images: int, args) -> dict[str, Callable[[], None]]:
    """Whole models, and the floor: our backbone and head alone. Ours is as ``Predictor`` has it."""
    height, width = args.size
    device = torch.device(args.device)
    pictures = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8).to(device)
    inputs = [{"image": picture} for picture in pictures]
    trained, torchvision, theirs = (models[name].eval() for name in NAMES)
    torchvision.transform.min_size, torchvision.transform.max_size = (min(args.size),), 1333
    floats = [picture / 255 for picture in pictures]
    ours = copy.deepcopy(trained)
    fold_detector(ours)
    prepared = ours.preprocess_image(inputs).tensor

    def run_in(precision: str, call: Callable, *inputs) -> Callable[[], None]:
        @torch.inference_mode()
        def run():
            with autocast(precision, device):
                call(*inputs)

        return run

    runs = {
        "fcos_d2": run_in(args.precision, ours, inputs),
        "torchvision": run_in(args.precision, torchvision, floats),
        "detectron2": run_in(args.precision, theirs, inputs),
        "(network alone)": run_in(args.precision, ours.network, prepared),
        "(norms not folded)": run_in(args.precision, trained, inputs),
        "(bf16)": run_in("bf16", ours, inputs),
    }
    if args.compile:
        compiled = copy.deepcopy(ours)
        compiled.compile_network("reduce-overhead" if device.type == "cuda" else "default")
        runs["(compiled)"] = run_in(args.precision, compiled, inputs)
        runs["(compiled, bf16)"] = run_in("bf16", compiled, inputs)
    return runs


def training_runs(models, args) -> dict[str, Callable[[], None]]:
    """A step with SGD and 20 boxes an image."""
    images, device = args.batch, torch.device(args.device)
    pictures = torch.randint(0, 256, (images, 3, *args.size), dtype=torch.uint8).to(device)
    truth = random_boxes(images, 20, *args.size, args.device)
    inputs = [
        {"image": x, "instances": Instances(args.size, gt_boxes=Boxes(b), gt_classes=c)}
        for x, (b, c) in zip(pictures, truth, strict=True)
    ]
    floats = [picture / 255 for picture in pictures]
    targets = [{"boxes": boxes, "labels": classes} for boxes, classes in truth]
    models["torchvision"].transform.min_size = (min(args.size),)

    def step(model, precision: str, *inputs, **options) -> Callable[[], None]:
        trainable = [p for p in model.train().parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trainable, lr=1e-6, momentum=0.9, **options)
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

        def run():
            with autocast(precision, device):
                losses = model(*inputs)
            optimizer.zero_grad()
            scaler.scale(sum(losses.values())).backward()
            scaler.step(optimizer)
            scaler.update()

        return run

    runs = {
        "fcos_d2": step(models["fcos_d2"], args.precision, inputs),
        "torchvision": step(models["torchvision"], args.precision, floats, targets),
        "detectron2": step(models["detectron2"], args.precision, inputs),
        "(bf16)": step(copy.deepcopy(models["fcos_d2"]), "bf16", inputs),
        "(fused)": step(copy.deepcopy(models["fcos_d2"]), args.precision, inputs, fused=True),
    }
    if args.compile:
        compiled = copy.deepcopy(models["fcos_d2"])
        compiled.compile_network()
        runs["(compiled)"] = step(compiled, args.precision, inputs, fused=device.type == "cuda")
    return runs


def measure(runs: dict[str, Callable], count: int, device: str) -> dict[str, float]:
    """Median seconds of each, in an order that changes from run to run."""
    seconds = {name: [] for name in runs}
    order = list(runs)
    for i in range(count + 1):
        random.Random(i).shuffle(order)
        for name in order:
            _synchronise(device)
            start = time.perf_counter()
            later = runs[name]()  # a run may say when its own work began
            _synchronise(device)
            if i:  # the first one warms up
                begin = later if isinstance(later, float) else start
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_mib(run: Callable) -> float:
    """Peak memory of a run above what the process held before, in MiB."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    run()
    ctypes.CDLL(None).malloc_trim(0)  # glibc gives back what is free, so that the peak is the run's
    reset.write_text("5")
    before = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
    run()
    return (int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) - before) / 1024


def gpu_facts(run: Callable) -> dict[str, float]:
    """Peak memory that PyTorch allocated, kernels, their milliseconds, and waits for the GPU."""
    run()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**20
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
    events = profile.events()
    kernels = [e for e in events if e.device_type == torch.autograd.DeviceType.CUDA]
    waits = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
    convolutions = ("conv", "gemm", "xmma", "cutlass", "cudnn", "wgrad", "dgrad")
    return {
        "peak MiB": peak,
        "kernels": len(kernels),
        "kernel ms": sum(e.device_time for e in kernels) / 1000,
        "outside convolutions ms": sum(
            e.device_time for e in kernels if not any(word in e.name for word in convolutions)
        )
        / 1000,
        "waits": sum(e.name in waits for e in events),
    }


def _best(seconds: dict[str, float]) -> float:
    return min(seconds[name] for name in NAMES[1:])


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", metavar="FILE", default="side_by_side.json")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of whole models")
    parser.add_argument("--batch", type=int, default=2, help="of the training step")
    parser.add_argument(
        "--size", type=parse_size, default=(512, 640), help="of whole models' images"
    )
    parser.add_argument("--compile", action="store_true", help="also ours with torch.compile")
    groups = ("losses", "postprocess", "inference", "training")
    parser.add_argument("--only", nargs="+", choices=groups, default=groups)
    args = parser.parse_args()
    torch.manual_seed(0)
    models = build(args.device)
    table = []

    def add(title: str, runs: dict[str, Callable], count: int) -> None:
        seconds = measure(runs, count, args.device)
        row = {"work": title, **seconds, "ratio": seconds["fcos_d2"] / _best(seconds)}
        if args.device == "cpu" and Path("/proc/self/clear_refs").exists():
            row["peak MiB"] = {name: peak_mib(run) for name, run in runs.items()}
            mebibytes = row["peak MiB"]
            row["memory ratio"] = mebibytes["fcos_d2"] / min(mebibytes[n] for n in NAMES[1:])
        if args.device.startswith("cuda"):
            row["GPU"] = {name: gpu_facts(run) for name, run in runs.items()}
        table.append(row)
        print(title, json.dumps({k: v for k, v in row.items() if k != "work"}), flush=True)

    with EventStorage():
        if "losses" in args.only:
            for count in (7, 50, 300, 1000):
                runs = loss_runs(models, count, args.device)
                add(f"losses and backward, {count} boxes", runs, args.runs)
        live(models)
        if "postprocess" in args.only:
            for dense in (False, True):
                title = f"post-processing, 8 images{', dense' if dense else ''}"
                add(title, postprocess_runs(models, args.device, dense), args.runs)
        if "inference" in args.only:
            for images in (1, 8):
                runs = inference_runs(models, images, args)
                add(f"inference, batch {images}", runs, max(3, args.runs // 2))
        if "training" in args.only:
            runs = training_runs(models, args)
            add(f"training step, {args.batch} images", runs, max(3, args.runs // 2))
    shown = []
    for row in table:
        memory = row.get("memory ratio")
        shown.append([row["work"], *(1000 * row[n] for n in NAMES), row["ratio"], memory])
        shown += [[n, 1000 * t, "", "", t / _best(row)] for n, t in row.items() if n[0] == "("]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": args.precision,
    }
    if args.device.startswith("cuda"):
        machine["GPU"] = torch.cuda.get_device_name(args.device)
    print("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    print("milliseconds, medians; ratio to the better of the others\n")
    headers = ("work", *NAMES, "ratio", "memory ratio")
    print(tabulate(shown, headers=headers, floatfmt=("", ".1f", ".1f", ".1f", ".2f", ".2f")))
    report = {"machine": machine, "rows": table}
    Path(args.json).write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    print(f"\nwritten to {args.json}")


if __name__ == "__main__":
    main()
