"""Boxes annotated as crowds: forgotten, or a region where background is not taught."""

import numpy as np
import torch
from detectron2.structures import BoxMode
from PIL import Image
from support.inputs import ground_truth
from support.models import tiny_fcos

import fcos_d2
from fcos_d2.data.mapper import FCOSDatasetMapper


def record(folder):
    path = folder / "image.png"
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(path)
    boxes = [([4, 4, 24, 24], 0), ([40, 10, 40, 40], 1)]
    annotations = [
        {"bbox": b, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": c} for b, c in boxes
    ]
    return {"file_name": str(path), "width": 96, "height": 64, "annotations": annotations}


def test_the_mapper_gives_transformed_crowd_boxes_if_asked(tmp_path):
    cfg = fcos_d2.get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (128,), "none"
    item = FCOSDatasetMapper(cfg, is_train=True)(record(tmp_path))
    assert len(item["instances"]) == 1 and "ignore_boxes" not in item
    cfg.INPUT.IGNORE_CROWDS = True
    item = FCOSDatasetMapper(cfg, is_train=True)(record(tmp_path))
    assert len(item["instances"]) == 1
    assert item["ignore_boxes"].tolist() == [[80, 20, 160, 100]]


def test_background_inside_a_crowd_teaches_nothing_and_the_rest_does():
    crowd = torch.tensor([[40.0, 10, 80, 50]])
    inputs = [
        {
            "image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8),
            "instances": ground_truth([[4, 4, 28, 28]], [0], (64, 96)),
        }
    ]
    gradients = []
    for extra in ({}, {"ignore_boxes": crowd}):
        torch.manual_seed(0)
        model = tiny_fcos(num_classes=2, head={"norm": ""})
        seen = {}

        def look(module, arguments, output, seen=seen):
            seen["logits"] = output[0][0]
            seen["logits"].retain_grad()

        model.head.register_forward_hook(look)
        losses = model.train()([{**inputs[0], **extra}])
        sum(losses.values()).backward()
        gradients.append(seen["logits"].grad[0].abs().sum(0))  # p3: 16 x 16, of stride 8
    plain, ignoring = gradients
    inside = torch.zeros_like(plain, dtype=torch.bool)
    inside[1:6, 5:10] = True  # locations (44..76, 12..44)
    assert (plain[inside] > 0).all() and (ignoring[inside] == 0).all()
    assert torch.equal(plain[~inside], ignoring[~inside])
