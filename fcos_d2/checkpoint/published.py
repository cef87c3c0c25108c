"""Published FCOS models, each with the config that reproduces it."""

from dataclasses import dataclass

__all__ = ["PUBLISHED", "Published"]


@dataclass(frozen=True)
class Published:
    """A published model.

    Attributes:
        config: name of a config for :func:`~fcos_d2.config.get_config_file`.
        origin: code base of the model, a name for ``fcos-d2 convert --from``.
        ap: box AP on COCO val2017 (minival) as reported by the authors, in percent; ``None`` if
            not reported.
        file: file name of the published weights; "" if the weights were not published.
        url: address of the weights; "" if there is no stable address.
    """

    config: str
    origin: str
    ap: float | None = None
    file: str = ""
    url: str = ""


def _official(config: str, ap: float | None, published: bool = True) -> Published:
    file = f"FCOS_{config.removeprefix('fcos_')}.pth" if published else ""
    url = f"https://huggingface.co/tianzhi/FCOS/resolve/main/{file}?download=true" if file else ""
    return Published(f"official/{config}.yaml", "official", ap, file, url)


def _adelaidet(config: str, ap: float | None, file: str = "") -> Published:
    host = "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main"
    url = f"{host}/{file}.pth?download=true" if file else ""
    return Published(
        f"adelaidet/{config}.yaml", "adelaidet", ap, f"{file}.pth" if file else "", url
    )


def _vovnet(depth: int, ap: float, file: str = "") -> Published:
    return Published(f"adelaidet/vovnet/MS_V_{depth}_3x.yaml", "adelaidet", ap, file)


def _mmdet(config: str, ap: float | None = None, name: str = "", digest: str = "") -> Published:
    host = "https://download.openmmlab.com/mmdetection/v2.0/fcos"
    file = f"{name}-{digest}.pth" if name else ""
    url = f"{host}/{name}/{file}" if file else ""
    return Published(f"mmdet/{config}.yaml", "mmdet", ap, file, url)


_TRICKS = "center-normbbox-centeronreg-giou"

PUBLISHED: tuple[Published, ...] = (
    _official("fcos_R_50_FPN_1x", 37.1),
    _official("fcos_R_101_FPN_2x", 41.4),
    _official("fcos_X_101_32x8d_FPN_2x", 42.5),
    _official("fcos_X_101_64x4d_FPN_2x", 43.0),
    _official("fcos_imprv_R_50_FPN_1x", 38.7),
    _official("fcos_imprv_R_101_FPN_1x", None, published=False),
    _official("fcos_imprv_R_101_FPN_2x", 43.0),
    _official("fcos_imprv_X_101_32x8d_FPN_2x", 44.0),
    _official("fcos_imprv_X_101_64x4d_FPN_2x", 44.7),
    _official("fcos_imprv_dcnv2_R_50_FPN_1x", 42.3),
    _official("fcos_imprv_dcnv2_R_101_FPN_1x", None, published=False),
    _official("fcos_imprv_dcnv2_R_101_FPN_2x", 45.6),
    _official("fcos_imprv_dcnv2_X_101_32x8d_FPN_2x", 46.4),
    _official("fcos_imprv_dcnv2_X_101_64x4d_FPN_2x", 46.6),
    _official("fcos_bn_bs16_MNV2_FPN_1x", 31.0),
    _official("fcos_syncbn_bs32_MNV2_FPN_1x", 33.1),
    _official("fcos_syncbn_bs32_c128_MNV2_FPN_1x", 30.9),
    _official("fcos_syncbn_bs32_c128_ms_MNV2_FPN_1x", None, published=False),
    _official("fcos_syncbn_bs64_c128_ms_MNV2_FPN_1x", None, published=False),
    _adelaidet("R_50_1x", 38.7, "FCOS_R_50_1x"),
    _adelaidet("MS_R_50_2x", 41.0, "FCOS_MS_R_50_2x"),
    _adelaidet("MS_R_101_2x", 43.1, "FCOS_MS_R_101_2x"),
    _adelaidet("MS_X_101_32x8d_2x", 43.9, "FCOS_MS_X_101_32x8d_2x"),
    _adelaidet("MS_X_101_64x4d_2x", 44.7, "FCOS_MS_X_101_64x4d_2x"),
    _adelaidet("MS_X_101_32x8d_2x_dcnv2", 46.6, "FCOS_MS_X_101_32x8d_dcnv2_2x"),
    _adelaidet("MS_X_101_64x4d_2x_dcnv2", None),
    _adelaidet("R_50_1x_iou", 39.4, "FCOS_R_50_1x_iou"),
    _adelaidet("MS_R_50_2x_iou", 41.5, "FCOS_MS_R_50_2x_iou"),
    _adelaidet("MS_R_101_2x_iou", 43.5, "FCOS_MS_R_101_2x_iou"),
    _adelaidet("MS_X_101_32x8d_2x_iou", 44.5, "FCOS_MS_X_101_32x8d_2x_iou"),
    _adelaidet("MS_X_101_32x8d_2x_dcnv2_iou", 47.4, "FCOS_MS_X_101_32x8d_2x_dcnv2_iou"),
    *(
        _adelaidet(f"FCOS_RT/{name}", ap, f"FCOS_RT_{name}")
        for name, ap in (
            ("MS_DLA_34_4x_syncbn", 40.3),
            ("MS_DLA_34_4x_syncbn_shared_towers", 39.1),
            ("MS_R_50_4x_syncbn", 40.2),
            ("MS_DLA_34_4x_syncbn_shared_towers_bn_head", 38.9),
            ("MS_DLA_34_4x_syncbn_bn_head", 39.4),
            ("MS_R_50_4x_syncbn_bn_head", 39.3),
        )
    ),
    _vovnet(39, 43.5, "fcos_V_39_eSE_FPN_ms_3x.pth"),
    _vovnet(57, 44.4),
    _vovnet(99, 45.2, "fcos_V_99_eSE_FPN_ms_3x.pth"),
    _adelaidet("DenseCL/FCOS_R50_1x", 39.9),
    _adelaidet("DenseCL/FCOS_R50_1x_DenseCL", 40.9),
    Published("detectron2/fcos_R_50_FPN_1x.yaml", "detectron2"),
    Published(
        "torchvision/fcos_resnet50_fpn.yaml",
        "torchvision",
        39.2,
        "fcos_resnet50_fpn_coco-99b0c9b7.pth",
        "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth",
    ),
    _mmdet(
        "fcos_r50-caffe_fpn_gn-head_1x_coco", 36.6, "fcos_r50_caffe_fpn_gn-head_1x_coco", "821213aa"
    ),
    _mmdet("fcos_r50-caffe_fpn_gn-head_4xb4-1x_coco"),
    _mmdet("fcos_r50-caffe_fpn_gn-head-center_1x_coco"),
    _mmdet(
        f"fcos_r50-caffe_fpn_gn-head-{_TRICKS}_1x_coco",
        38.7,
        f"fcos_{_TRICKS}_r50_caffe_fpn_gn-head_1x_coco",
        "0a0d75a8",
    ),
    _mmdet(
        f"fcos_r50-dcn-caffe_fpn_gn-head-{_TRICKS}_1x_coco",
        42.3,
        f"fcos_{_TRICKS}_r50_caffe_fpn_gn-head_dcn_1x_coco",
        "ae4d8b3d",
    ),
    _mmdet(
        "fcos_r101-caffe_fpn_gn-head-1x_coco",
        39.1,
        "fcos_r101_caffe_fpn_gn-head_1x_coco",
        "0e37b982",
    ),
    _mmdet(
        "fcos_r50-caffe_fpn_gn-head_ms-640-800-2x_coco",
        38.5,
        "fcos_r50_caffe_fpn_gn-head_mstrain_640-800_2x_coco",
        "d92ceeea",
    ),
    _mmdet(
        "fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco",
        40.8,
        "fcos_r101_caffe_fpn_gn-head_mstrain_640-800_2x_coco",
        "511424d6",
    ),
    _mmdet(
        "fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco",
        42.6,
        "fcos_x101_64x4d_fpn_gn-head_mstrain_640-800_2x_coco",
        "ede514a8",
    ),
    *(
        _mmdet(f"fcos_{body}_fpn_gn-head-{_TRICKS}_8xb8-amp-lsj-200e_coco")
        for body in ("r18", "r50", "r101")
    ),
)
