"""Deformable convolution in ResNets, without detectron2's compiled code."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone
from torchvision.ops import deform_conv2d

import fcos_d2
from fcos_d2.modeling.backbone import build_fcos_resnet_fpn_p3p7_backbone
from fcos_d2.modeling.backbone.deform import DeformBottleneckBlock, deform_stages, offsets_and_mask


def config(**resnets):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    for key, value in resnets.items():
        cfg.MODEL.RESNETS[key] = value
    return cfg


def backbone(**resnets):
    return build_fcos_resnet_fpn_p3p7_backbone(config(**resnets), ShapeSpec(channels=3))


@pytest.mark.parametrize(("modulated", "channels"), [(False, 18), (True, 27)])
def test_stages_become_deformable_under_detectron2s_names(modulated, channels):
    model = backbone(DEFORM_ON_PER_STAGE=[False, False, True, True], DEFORM_MODULATED=modulated)
    state = model.bottom_up.state_dict()
    assert tuple(state["res4.0.conv2_offset.weight"].shape) == (channels, 256, 3, 3)
    assert tuple(state["res4.0.conv2.weight"].shape) == (256, 256, 3, 3)
    deformable = {k.split(".")[0] for k in state if "conv2_offset" in k}
    assert deformable == {"res4", "res5"}
    plain = set(build_resnet_backbone(config(), ShapeSpec(channels=3)).state_dict())
    assert plain == {k for k in state if "conv2_offset" not in k}


@torch.no_grad()
@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("modulated", [False, True])
def test_without_offsets_a_block_is_the_plain_one(modulated, num_groups):
    plain = backbone(STEM_OUT_CHANNELS=8, RES2_OUT_CHANNELS=32, WIDTH_PER_GROUP=8).bottom_up.res4
    x = torch.randn(2, 64, 10, 12)
    block = DeformBottleneckBlock(plain[0], modulated=modulated, num_groups=num_groups)
    if modulated:  # sigmoid(large) = 1
        block.conv2_offset.bias[18 * num_groups :] = 50.0
    torch.testing.assert_close(block(x), plain[0](x))
    block.conv2_offset.weight.normal_(std=0.1)
    assert not torch.allclose(block(x), plain[0](x), atol=1e-3)


def test_offsets_are_pairs_of_y_and_x():
    """One tap moved down by one pixel sees the row below."""
    x = torch.arange(25.0).view(1, 1, 5, 5)
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 1, 1] = 1
    predicted = torch.zeros(1, 27, 5, 5)
    predicted[:, 8] = 1.0  # dy of the middle tap
    offset, mask = offsets_and_mask(predicted)
    out = deform_conv2d(x, offset, weight, padding=1, mask=mask)
    assert torch.equal(out[0, 0, :4], x[0, 0, 1:] * 0.5)


def test_frozen_stages_stay_frozen():
    model = backbone(DEFORM_ON_PER_STAGE=[True, True, False, False], DEFORM_MODULATED=True)
    trains = {n for n, p in model.bottom_up.named_parameters() if p.requires_grad}
    assert not any(n.startswith("res2.") for n in trains)
    assert "res3.0.conv2_offset.weight" in trains


def test_basic_blocks_cannot_be_made_deformable():
    resnet = backbone(DEPTH=18, RES2_OUT_CHANNELS=64).bottom_up
    with pytest.raises(ValueError, match="res4 has no bottleneck blocks"):
        deform_stages(resnet, ["res4"], modulated=True)
