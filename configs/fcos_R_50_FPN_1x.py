"""LazyConfig twin of fcos_R_50_FPN_1x.yaml: the same model, with the same state-dict keys."""

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

from fcos_d2 import FCOS, FCOSHead
from fcos_d2.modeling.backbone import build_fpn

model = L(FCOS)(
    backbone=L(build_fpn)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm="FrozenBN"),
            stages=L(ResNet.make_default_stages)(depth=50, stride_in_1x1=True, norm="FrozenBN"),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        out_channels=256,
    ),
    head=L(FCOSHead)(in_channels=256, num_levels=5, num_classes=80),
    in_features=["p3", "p4", "p5", "p6", "p7"],
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
)
