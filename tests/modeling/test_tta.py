"""Test-time augmentation around an FCOS."""

import pytest
import torch
from support.compare import check_same
from support.models import tiny_fcos
from torch import nn

import fcos_d2
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.postprocess import PostprocessOptions
from fcos_d2.modeling.tta import FCOSWithTTA


def config(sizes, flip):
    cfg = fcos_d2.get_cfg()
    cfg.INPUT.FORMAT = "RGB"
    cfg.TEST.AUG.ENABLED, cfg.TEST.AUG.FLIP = True, flip
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = sizes, 4000
    return cfg


def model(**options):
    torch.manual_seed(3)
    fcos = tiny_fcos(num_classes=3, head={"prior_distance": 2.0, "prior_prob": 0.3}, **options)
    for layer in (fcos.head.cls_logits, fcos.head.bbox_pred, fcos.head.ctrness):
        nn.init.normal_(layer.weight, std=0.15)
    return fcos.eval()


def picture(height=128, width=192):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("compat", [Compat(), Compat(one_pixel_boxes=True)])
@pytest.mark.parametrize("kind", ["per_class", "soft_gaussian"])
@torch.no_grad()
def test_one_pass_at_the_same_size_changes_nothing(compat, kind):
    fcos = model(compat=compat, postprocess=PostprocessOptions(nms_type=kind))
    inputs = [{"image": picture()}]
    plain = fcos(inputs)[0]["instances"]
    merged = FCOSWithTTA(config([128], False), fcos)(inputs)[0]["instances"]
    assert len(plain) > 30
    check_same(merged, plain.pred_boxes.tensor, plain.scores, plain.pred_classes)


@torch.no_grad()
def test_a_mirrored_picture_gives_mirrored_boxes():
    fcos, image = model(), picture()
    tta = FCOSWithTTA(config([128], True), fcos)
    one = tta([{"image": image}])[0]["instances"]
    other = tta([{"image": image.flip(2)}])[0]["instances"]
    x1, y1, x2, y2 = other.pred_boxes.tensor.unbind(1)
    mirrored = torch.stack((192 - x2, y1, 192 - x1, y2), 1)
    check_same(one, mirrored, other.scores, other.pred_classes)
    plain = fcos([{"image": image}])[0]["instances"]
    assert not torch.equal(plain.pred_boxes.tensor[:5], one.pred_boxes.tensor[:5])


@torch.no_grad()
def test_sizes_are_merged_in_the_coordinates_of_the_picture():
    fcos = model()
    tta = FCOSWithTTA(config([96, 128, 256], True), fcos)
    found = tta([{"image": picture(), "height": 128, "width": 192}])[0]["instances"]
    boxes = found.pred_boxes.tensor
    assert 0 < len(found) <= 100 and found.image_size == (128, 192)
    assert (boxes >= 0).all() and (boxes[:, 2] <= 192).all() and (boxes[:, 3] <= 128).all()
    assert found.scores.diff().le(0).all()


def test_it_is_for_fcos_only():
    with pytest.raises(TypeError, match="for FCOS, not Linear"):
        FCOSWithTTA(config([128], False), nn.Linear(1, 1))
