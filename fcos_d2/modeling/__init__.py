"""The FCOS model; importing this registers it and its backbones with detectron2."""

from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY

from ..utils.registry import register
from .backbone import (
    build_fcos_fpn_p3p7_backbone,
    build_fcos_resnet_fpn_p3p7_backbone,
    build_fcos_timm_fpn_p3p7_backbone,
)
from .fcos import FCOS
from .head import FCOSHead

__all__ = ["FCOS", "FCOSHead"]

register(META_ARCH_REGISTRY, FCOS)
register(BACKBONE_REGISTRY, build_fcos_resnet_fpn_p3p7_backbone)
register(BACKBONE_REGISTRY, build_fcos_timm_fpn_p3p7_backbone)
register(BACKBONE_REGISTRY, build_fcos_fpn_p3p7_backbone)
