from .fpn import (
    LastLevelP6,
    build_fcos_fpn_p3p7_backbone,
    build_fcos_resnet_fpn_p3p7_backbone,
    build_fcos_timm_fpn_p3p7_backbone,
    build_fpn,
)
from .timm import TimmBackbone

__all__ = [
    "LastLevelP6",
    "TimmBackbone",
    "build_fcos_fpn_p3p7_backbone",
    "build_fcos_resnet_fpn_p3p7_backbone",
    "build_fcos_timm_fpn_p3p7_backbone",
    "build_fpn",
]
