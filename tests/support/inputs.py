"""Config of a small model, and batches in the format of detectron2's loaders."""

import torch
from detectron2.structures import Boxes, Instances

import fcos_d2


def small_cfg(*overrides):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    small = [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 32,
        "MODEL.FCOS.NUM_CLASSES", 3, "MODEL.FCOS.NUM_CLS_CONVS", 1, "MODEL.FCOS.NUM_BOX_CONVS", 1,
    ]  # fmt: skip
    cfg.merge_from_list([*small, *overrides])
    return cfg


def inputs(counts, size=(128, 160)):
    generator = torch.Generator().manual_seed(0)
    batch = []
    for n in counts:
        corner = torch.rand(n, 2, generator=generator) * 60
        boxes = torch.cat((corner, corner + 20 + torch.rand(n, 2, generator=generator) * 60), 1)
        instances = Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.arange(n) % 3)
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        batch.append({"image": image, "instances": instances})
    return batch


def ground_truth(boxes, classes, size=(256, 320)):
    """Instances of one image: M boxes x1, y1, x2, y2 and their classes, height and width."""
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.as_tensor(classes, dtype=torch.int64)
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)
