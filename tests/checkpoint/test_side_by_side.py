"""torchvision's and detectron2's own FCOS beside ours, on a photograph, with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.fpn import FPN, LastLevelP6P7
from detectron2.modeling.meta_arch import fcos as detectron2_fcos
from PIL import Image
from support.compare import check_same
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.fcos import FCOS as TorchvisionFCOS
from torchvision.ops.feature_pyramid_network import LastLevelP6P7 as TorchvisionP6P7

import fcos_d2
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.checkpoint.convert import convert

IMAGE = Path(__file__).parents[1] / "golden" / "photograph.png"
# Sizes that are not multiples of 128: torchvision's grid differs from ours there.
CROPS = [(0, 0, 260, 190), (150, 100, 350, 340)]


@pytest.fixture(scope="module")
def photographs():
    """(3, H, W) uint8, RGB."""
    image = Image.open(IMAGE).convert("RGB")
    crops = [np.asarray(image.crop(box)) for box in CROPS]
    return [torch.from_numpy(crop.copy()).permute(2, 0, 1) for crop in crops]


def disturb(model):
    """Weights as after some training: every branch says something, norms are not neutral."""
    generator = torch.Generator().manual_seed(0)

    def noise(tensor, std):
        return torch.randn(tensor.shape, generator=generator) * std

    state = model.state_dict()
    for key, value in state.items():
        if key.endswith("running_var"):
            value.copy_((noise(value, 0.2) + 1).abs() + 0.5)
        elif key.endswith("running_mean"):
            value.copy_(noise(value, 0.1))
        elif key.endswith(("cls_logits.weight", "cls_score.weight", "ctrness.weight")):
            value.copy_(noise(value, 0.05))
        elif key.endswith(("cls_logits.bias", "cls_score.bias")):
            value.fill_(-2.0)
        elif key.endswith(("bbox_reg.weight", "bbox_pred.weight")):
            value.copy_(noise(value, 0.03))
        elif key.endswith(("bbox_reg.bias", "bbox_pred.bias")):
            value.fill_(2.0)
        elif value.dim() == 1 and key.endswith("weight"):
            value.copy_(noise(value, 0.1) + 1)
    return model.eval()


def ours_of(model, folder):
    """Our model with their weights, by way of files."""
    torch.save(model.state_dict(), folder / "theirs.pth")
    made = convert(str(folder / "theirs.pth"), str(folder / "ours"))
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(made.config)
    cfg.MODEL.DEVICE = "cpu"
    ours = build_model(cfg).eval()
    FCOSCheckpointer(ours).load(made.weights)
    return ours, cfg, made.origin


@torch.no_grad()
def test_torchvision(photographs, tmp_path):
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        returned_layers=[2, 3, 4],
        extra_blocks=TorchvisionP6P7(256, 256),
    )
    sizes = tuple((s,) for s in (8, 16, 32, 64, 128))
    theirs = disturb(
        TorchvisionFCOS(
            backbone,
            num_classes=5,
            anchor_generator=AnchorGenerator(sizes, ((1.0,),) * 5),
            min_size=1,  # set for each image, so that torchvision does not resize it
            max_size=10_000,
        )
    )
    ours, cfg, origin = ours_of(theirs, tmp_path)
    assert origin == "torchvision" and cfg.INPUT.FORMAT == "RGB" and cfg.MODEL.RESNETS.DEPTH == 18
    for image in photographs:
        theirs.transform.min_size = (min(image.shape[1:]),)
        (expected,) = theirs([image / 255])
        found = ours([{"image": image}])[0]["instances"]
        assert len(found) == 100
        check_same(found, expected["boxes"], expected["scores"], expected["labels"], pixels=0.05)


def detectron2_model():
    backbone = FPN(
        ResNet(
            BasicStem(3, 64, norm="FrozenBN"),
            ResNet.make_default_stages(18, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
        ),
        ["res3", "res4", "res5"],
        256,
        top_block=LastLevelP6P7(256, 256, "p5"),
    )
    return detectron2_fcos.FCOS(
        backbone=backbone,
        head=detectron2_fcos.FCOSHead(
            input_shape=[ShapeSpec(channels=256)] * 5,
            conv_dims=[256] * 4,
            num_classes=5,
            norm="GN",
        ),
        num_classes=5,
        pixel_mean=[103.53, 116.28, 123.675],
        pixel_std=[1.0, 1.0, 1.0],
    )


@torch.no_grad()
def test_detectron2(photographs, tmp_path):
    theirs = disturb(detectron2_model())
    ours, cfg, origin = ours_of(theirs, tmp_path)
    assert origin == "detectron2" and cfg.INPUT.FORMAT == "BGR" and cfg.MODEL.FCOS.NUM_CLASSES == 5
    for image in photographs:
        height, width = image.shape[1:]
        inputs = [{"image": image.flip(0), "height": height * 2, "width": width * 2}]
        expected = theirs(inputs)[0]["instances"]
        found = ours(inputs)[0]["instances"]
        assert len(found) >= 50
        fields = expected.pred_boxes.tensor, expected.scores, expected.pred_classes
        check_same(found, *fields, pixels=0.05)
