"""The parts of the pyramid that published models use beyond the default."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

import fcos_d2
from fcos_d2.modeling.backbone import TimmBackbone, build_fcos_resnet_fpn_p3p7_backbone


def backbone(*options):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.merge_from_list(list(options))
    return build_fcos_resnet_fpn_p3p7_backbone(cfg, ShapeSpec(channels=3)).eval()


@torch.no_grad()
def test_max_pooling_makes_one_more_level():
    model = backbone("MODEL.FCOS.TOP_BLOCK", "maxpool", "MODEL.FCOS.TOP_LEVELS", 1)
    assert isinstance(model.top_block, LastLevelMaxPool)
    features = model(torch.randn(1, 3, 64, 128))
    assert list(features) == ["p3", "p4", "p5", "p6"]
    assert torch.equal(features["p6"], features["p5"][..., ::2, ::2])
    with pytest.raises(ValueError, match="makes one level from p5"):
        backbone("MODEL.FCOS.TOP_BLOCK", "maxpool")
    with pytest.raises(ValueError, match="expected conv or maxpool"):
        backbone("MODEL.FCOS.TOP_BLOCK", "avgpool")


@torch.no_grad()
def test_relu_behind_every_convolution():
    torch.manual_seed(0)
    with_relu = backbone("MODEL.FCOS.FPN_RELU", True)
    without = backbone()
    without.load_state_dict(with_relu.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert with_relu(x)["p5"].min() >= 0 > without(x)["p5"].min()
    # p5 has one lateral and one output convolution, so it can be computed by hand.
    c5 = without.bottom_up(x)["res5"]
    by_hand = without.fpn_output5(without.fpn_lateral5(c5).relu()).relu()
    torch.testing.assert_close(with_relu(x)["p5"], by_hand)


def test_group_norm_in_stem_stages_and_pyramid():
    model = backbone("MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "GN")
    assert isinstance(model.bottom_up.stem.conv1.norm, nn.GroupNorm)
    assert isinstance(model.bottom_up.res5[0].conv2.norm, nn.GroupNorm)
    assert isinstance(model.fpn_output3.norm, nn.GroupNorm) and model.fpn_output3.bias is None


def test_resnet_152():
    model = backbone("MODEL.RESNETS.DEPTH", 152)
    assert [len(getattr(model.bottom_up, f"res{i}")) for i in (2, 3, 4, 5)] == [3, 8, 36, 3]


def test_channel_attention_in_every_block_is_for_vovnets():
    model = TimmBackbone("ese_vovnet39b", ese_in_every_block=True)
    attention = [k for k in model.state_dict() if k.endswith("attn.fc.weight")]
    assert len(attention) == 6  # one, one, two and two blocks
    with pytest.raises(ValueError, match="mobilenetv2_100 is not one"):
        TimmBackbone("mobilenetv2_100", ese_in_every_block=True)


def test_synchronised_norms():
    model = TimmBackbone("mobilenetv2_100", norm="SyncBN")
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    with pytest.raises(ValueError, match="expected FrozenBN, SyncBN"):
        TimmBackbone("mobilenetv2_100", norm="GN")
