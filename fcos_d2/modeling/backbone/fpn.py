"""P3-P7 on any backbone, with detectron2's FPN (arXiv 1612.03144; P6, P7: arXiv 1708.02002)."""

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn
from torch.nn import functional as F

from .deform import deform_stages
from .timm import TimmBackbone

__all__ = [
    "LastLevelP6",
    "build_fcos_fpn_p3p7_backbone",
    "build_fcos_resnet_fpn_p3p7_backbone",
    "build_fcos_timm_fpn_p3p7_backbone",
    "build_fpn",
]


class LastLevelP6(nn.Module):
    """P6 without P7: one strided convolution."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "p5"):
        super().__init__()
        self.num_levels = 1
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        weight_init.c2_xavier_fill(self.p6)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.p6(x)]


def build_fpn(
    bottom_up: Backbone,
    *,
    in_features: Sequence[str] = (),
    out_channels: int = 256,
    norm: str = "",
    fuse_type: str = "sum",
    top_levels: int = 2,
    top_block_in: str = "p5",
    top_block: str = "conv",
    relu: bool = False,
) -> FPN:
    """Build detectron2's FPN with ``top_levels`` strided levels on top.

    Args:
        bottom_up: backbone that returns the features named in ``in_features``.
        in_features: features with doubling strides, fine to coarse; empty takes strides 8, 16, 32.
        out_channels, norm, fuse_type: see detectron2's FPN.
        top_levels: 0, 1 or 2.
        top_block_in: their input, the FPN's coarsest output ("p5") or the backbone's ("res5").
        top_block: "conv", a strided convolution for each level, or "maxpool", which keeps every
            second value of the FPN's coarsest output for one level.
        relu: apply a ReLU after every convolution of the FPN, an option of the official code.

    Raises:
        ValueError: for features or options that do not fit, naming the config key.
    """
    shapes = bottom_up.output_shape()
    in_features = list(in_features) or _features_of_strides(shapes, (8, 16, 32))
    unknown = [name for name in in_features if name not in shapes]
    if unknown:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES asks for {unknown}, but the backbone gives {sorted(shapes)}"
        )
    channels = {name: shape.channels for name, shape in shapes.items()}
    channels["p" + str(shapes[in_features[-1]].stride.bit_length() - 1)] = out_channels
    top = _top_block(top_block, top_levels, top_block_in, channels, out_channels)
    fpn = FPN(bottom_up, in_features, out_channels, norm, top, fuse_type)
    if relu:
        for conv in (*fpn.lateral_convs, *fpn.output_convs):
            conv.activation = F.relu
    return fpn


def _top_block(
    kind: str, levels: int, in_feature: str, channels: dict[str, int], out_channels: int
) -> nn.Module | None:
    """Top levels of the FPN; ``channels`` holds the features that they may start from."""
    if levels not in (0, 1, 2):
        raise ValueError(f"MODEL.FCOS.TOP_LEVELS must be 0, 1 or 2, got {levels}")
    if in_feature not in channels:
        *features, coarsest = channels
        raise ValueError(
            f"MODEL.FCOS.TOP_BLOCK_IN is {in_feature!r}, expected {coarsest!r} or one of the "
            f"backbone's features {sorted(features)}"
        )
    if kind == "maxpool":
        if (levels, in_feature) != (1, "p5"):
            raise ValueError(
                "MODEL.FCOS.TOP_BLOCK maxpool makes one level from p5: set MODEL.FCOS.TOP_LEVELS 1 "
                "and TOP_BLOCK_IN p5"
            )
        return LastLevelMaxPool()
    if kind != "conv":
        raise ValueError(f"MODEL.FCOS.TOP_BLOCK is {kind!r}, expected conv or maxpool")
    if levels == 0:
        return None
    top = LastLevelP6 if levels == 1 else LastLevelP6P7
    return top(channels[in_feature], out_channels, in_feature)


def build_fcos_resnet_fpn_p3p7_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """P3-P7 on detectron2's ResNet (all of MODEL.RESNETS)."""
    options = cfg.MODEL.RESNETS
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.RESNETS.DEFORM_ON_PER_STAGE = [False] * 4
    resnet = build_resnet_backbone(plain, input_shape)
    # detectron2's own deformable blocks need its compiled code, on the CPU as well.
    deform_stages(
        resnet,
        [f"res{i}" for i, deform in enumerate(options.DEFORM_ON_PER_STAGE, start=2) if deform],
        modulated=options.DEFORM_MODULATED,
        num_groups=options.DEFORM_NUM_GROUPS,
    )
    return _fpn_from_cfg(cfg, resnet)


def build_fcos_timm_fpn_p3p7_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """P3-P7 on a model of timm (MODEL.TIMM)."""
    bottom_up = TimmBackbone(
        cfg.MODEL.TIMM.NAME,
        out_features=cfg.MODEL.FPN.IN_FEATURES,
        pretrained=cfg.MODEL.TIMM.PRETRAINED,
        norm=cfg.MODEL.TIMM.NORM,
        ese_in_every_block=cfg.MODEL.TIMM.ESE_IN_EVERY_BLOCK,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        in_channels=input_shape.channels,
    )
    return _fpn_from_cfg(cfg, bottom_up)


def build_fcos_fpn_p3p7_backbone(cfg, input_shape: ShapeSpec) -> FPN:
    """P3-P7 on any registered backbone with at least three features of doubling strides."""
    bottom_up = BACKBONE_REGISTRY.get(cfg.MODEL.FCOS.BOTTOM_UP)(cfg, input_shape)
    return _fpn_from_cfg(cfg, bottom_up)


def _fpn_from_cfg(cfg, bottom_up: Backbone) -> FPN:
    return build_fpn(
        bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
        top_levels=cfg.MODEL.FCOS.TOP_LEVELS,
        top_block_in=cfg.MODEL.FCOS.TOP_BLOCK_IN,
        top_block=cfg.MODEL.FCOS.TOP_BLOCK,
        relu=cfg.MODEL.FCOS.FPN_RELU,
    )


def _features_of_strides(shapes: dict[str, ShapeSpec], strides: Sequence[int]) -> list[str]:
    by_stride = {shape.stride: name for name, shape in shapes.items()}
    missing = [s for s in strides if s not in by_stride]
    if missing:
        raise ValueError(
            f"the backbone has no features of stride {missing}, only {sorted(by_stride)}; name "
            "the features to use in MODEL.FPN.IN_FEATURES"
        )
    return [by_stride[s] for s in strides]
