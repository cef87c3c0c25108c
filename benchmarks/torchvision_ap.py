"""The same weights in torchvision's FCOS and in ours, from raw pictures: AP, and why it differs.

    python benchmarks/torchvision_ap.py FOLDER [--iterations N]

FOLDER is a small COCO data set: images/, annotations/instances_train.json and instances_val.json. A
small torchvision FCOS is converted, trained here from random weights, and its weights are put back.
Then each side reads, resizes and normalises the pictures in its own way; a third row gives
torchvision the pictures as detectron2 resizes them, so that what remains is the network.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.data.datasets import register_coco_instances
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.resnet import resnet18
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import fcos_d2
from fcos_d2.checkpoint.convert import FORMATS, convert
from fcos_d2.engine.trainer import FCOSTrainer

CHANNELS, MIN_SIZE, MAX_SIZE = 64, 300, 500


def build_torchvision(num_classes: int) -> FCOS:
    backbone = BackboneWithFPN(
        resnet18(weights=None),
        {"layer2": "0", "layer3": "1", "layer4": "2"},
        [128, 256, 512],
        CHANNELS,
        extra_blocks=LastLevelP6P7(CHANNELS, CHANNELS),
    )
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    return FCOS(
        backbone,
        num_classes,
        anchor_generator=anchors,
        head=FCOSHead(CHANNELS, 1, num_classes, num_convs=2),
        min_size=MIN_SIZE,
        max_size=MAX_SIZE,
        score_thresh=0.05,
    )


def train(model: FCOS, folder: Path, output: Path, iterations: int):
    """Train our twin of ``model``; returns it and its config."""
    torch.save(model.state_dict(), output / "torchvision.pth")
    made = convert(str(output / "torchvision.pth"), str(output / "converted"))
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(made.config)
    for split in ("train", "val"):
        register_coco_instances(
            f"ap_{split}",
            {},
            str(folder / f"annotations/instances_{split}.json"),
            str(folder / "images"),
        )
    overrides = {
        "MODEL.DEVICE": "cuda" if torch.cuda.is_available() else "cpu",
        "MODEL.RESNETS.NORM": "BN",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.FCOS.INFERENCE_TH_TEST": 0.05,
        "MODEL.FCOS.PRIOR_DISTANCE": 2.0,
        "DATASETS.TRAIN": ("ap_train",),
        "DATASETS.TEST": ("ap_val",),
        "DATALOADER.NUM_WORKERS": 1,
        "INPUT.MIN_SIZE_TRAIN": (MIN_SIZE,),
        "INPUT.MAX_SIZE_TRAIN": MAX_SIZE,
        "INPUT.MIN_SIZE_TEST": MIN_SIZE,
        "INPUT.MAX_SIZE_TEST": MAX_SIZE,
        "SOLVER.OPTIMIZER": "AdamW",
        "SOLVER.AMP.ENABLED": False,
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.IMS_PER_BATCH": 4,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": (),
        "SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR",
        "SOLVER.WARMUP_ITERS": 50,
        "OUTPUT_DIR": str(output / "training"),
        "SEED": 1,
    }
    cfg.merge_from_list([x for pair in overrides.items() for x in pair])
    (output / "training").mkdir(exist_ok=True)
    trainer = FCOSTrainer(cfg, skip_test=True)
    trainer.train()
    return trainer.model.eval(), cfg


def put_back(trained: torch.nn.Module, theirs: FCOS) -> None:
    """Copy our weights into torchvision's model, whose names a conversion tells."""
    names = list(theirs.state_dict())
    numbered = {name: torch.tensor([float(i)]) for i, name in enumerate(names)}
    place = {int(v): k for k, v in FORMATS["torchvision"].convert(numbered).items()}
    state = trained.state_dict()
    theirs.load_state_dict({name: state[place[i]].cpu() for i, name in enumerate(names)})


def average_precision(ground_truth: COCO, detections: list[dict]) -> tuple[float, float]:
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0] * 100, evaluation.stats[1] * 100


def as_results(image_id: int, boxes, scores, labels, categories) -> list[dict]:
    return [
        {
            "image_id": image_id,
            "category_id": categories[int(label)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores, labels, strict=True)
    ]


@torch.no_grad()
def compare(ours, theirs: FCOS, folder: Path) -> dict[str, tuple[float, float]]:
    ground_truth = COCO(str(folder / "annotations/instances_val.json"))
    categories = sorted(ground_truth.getCatIds())
    resize = ResizeShortestEdge(MIN_SIZE, MAX_SIZE)
    found: dict[str, list[dict]] = {"ours": [], "torchvision": [], "torchvision, our pictures": []}
    device = ours.device
    theirs.to(device)
    for image_id, record in ground_truth.imgs.items():
        with Image.open(folder / "images" / record["file_name"]) as file:
            raw = np.asarray(file.convert("RGB"))
        height, width = raw.shape[:2]
        resized = resize.get_transform(raw).apply_image(raw)
        resized = torch.from_numpy(resized.copy()).permute(2, 0, 1).to(device)
        output = ours([{"image": resized, "height": height, "width": width}])[0]["instances"]
        boxes, scores = output.pred_boxes.tensor, output.scores
        found["ours"] += as_results(image_id, boxes, scores, output.pred_classes, categories)

        theirs.transform.min_size = (MIN_SIZE,)
        picture = torch.from_numpy(raw.copy()).permute(2, 0, 1).to(device) / 255
        (output,) = theirs([picture])
        found["torchvision"] += as_results(
            image_id, output["boxes"], output["scores"], output["labels"], categories
        )

        theirs.transform.min_size = (min(resized.shape[1:]),)  # resizes to the size it has
        (output,) = theirs([resized / 255])
        scale = torch.tensor([width / resized.shape[2], height / resized.shape[1]]).repeat(2)
        found["torchvision, our pictures"] += as_results(
            image_id, output["boxes"].cpu() * scale, output["scores"], output["labels"], categories
        )
    return {name: average_precision(ground_truth, results) for name, results in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=600)
    parser.add_argument("--output", type=Path, default=Path("output/torchvision_ap"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    annotations = json.loads((args.folder / "annotations/instances_train.json").read_text())
    theirs = build_torchvision(len(annotations["categories"])).eval()
    ours, _ = train(theirs, args.folder, args.output, args.iterations)
    put_back(ours, theirs)
    print("\n| who resizes and detects | AP | AP50 |\n|---|---|---|")
    for name, (ap, ap50) in compare(ours, theirs, args.folder).items():
        print(f"| {name} | {ap:.2f} | {ap50:.2f} |")


if __name__ == "__main__":
    main()
