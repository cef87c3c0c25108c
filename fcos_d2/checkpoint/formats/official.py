"""Checkpoints and configs of the official FCOS (github.com/tianzhi0549/FCOS)."""

from typing import Any

import yaml

from ...config import FCOSCfgNode
from ...modeling.compat import Compat
from .format import RESNET_RULES, Format, State, flatten, map_config, rename, subtract_eps
from .timm_names import MOBILENET_V2_RULES

__all__ = ["FORMAT"]

_RULES = (
    (r"^backbone\.body\.", "backbone.bottom_up."),
    *RESNET_RULES,
    (r"^(backbone\.bottom_up\..*)conv2\.conv\.", r"\1conv2."),
    (r"^(backbone\.bottom_up\..*)conv2\.offset\.", r"\1conv2_offset."),
    *MOBILENET_V2_RULES,
    # Levels have the numbers of ResNet layers. With GN an FPN layer is [convolution, GN].
    (r"^backbone\.fpn\.fpn_inner(\d)\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 1}."),
    (r"^backbone\.fpn\.fpn_layer(\d)\.", lambda m: f"backbone.fpn_output{int(m[1]) + 1}."),
    (r"^(backbone\.fpn_(?:lateral|output)\d\.)0\.", r"\1"),
    (r"^(backbone\.fpn_(?:lateral|output)\d\.)1\.", r"\1norm."),
    (r"^backbone\.fpn\.top_blocks\.", "backbone.top_block."),
    (r"^rpn\.head\.centerness\.", "head.ctrness."),
    (r"^rpn\.head\.", "head."),
)


def _convert(state: State) -> State:
    # Frozen batch norms of this code have no eps; trainable ones (MobileNetV2) have the usual eps.
    return subtract_eps(rename(state, _RULES))


def _conv_body(name: str) -> dict[str, Any]:
    if name == "MNV2-FPN-RETINANET":
        return {
            "MODEL.BACKBONE.NAME": "build_fcos_timm_fpn_p3p7_backbone",
            "MODEL.TIMM.NAME": "mobilenetv2_100",
            "MODEL.TIMM.NORM": "",
            "MODEL.FPN.IN_FEATURES": [],
        }
    depth = name.removesuffix("-FPN-RETINANET").removeprefix("R-")
    if depth not in ("50", "101", "152"):
        raise ValueError(f"MODEL.BACKBONE.CONV_BODY {name!r} is not a backbone of a published FCOS")
    return {"MODEL.RESNETS.DEPTH": int(depth)}


def _both(key: str):
    return lambda value: {f"MODEL.FCOS.{key}_TEST": value, f"MODEL.FCOS.{key}_TRAIN": value}


def _radius(value: float) -> dict[str, Any]:
    on = value > 0
    return {"MODEL.FCOS.CENTER_SAMPLE": on, **({"MODEL.FCOS.POS_RADIUS": value} if on else {})}


def _size_range(value) -> dict[str, Any]:
    if value[0] < 0:  # no range
        return {}
    return {"INPUT.MIN_SIZE_TRAIN": tuple(value), "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}


_CONFIG_RULES = {
    "MODEL.META_ARCHITECTURE": None,
    "MODEL.RPN_ONLY": None,
    "MODEL.FCOS_ON": None,
    "MODEL.RETINANET_ON": None,
    "MODEL.WEIGHT": None,  # initial weights of training; a conversion has its own weights
    "MODEL.BACKBONE.CONV_BODY": _conv_body,
    "MODEL.BACKBONE.FREEZE_CONV_BODY_AT": "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS": "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RESNETS.STAGE_WITH_DCN": lambda v: {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": list(v)},
    "MODEL.RESNETS.WITH_MODULATED_DCN": "MODEL.RESNETS.DEFORM_MODULATED",
    "MODEL.RESNETS.DEFORMABLE_GROUPS": "MODEL.RESNETS.DEFORM_NUM_GROUPS",
    "MODEL.RESNETS.TRANS_FUNC": lambda v: {
        "MODEL.RESNETS.NORM": "GN" if v.endswith("GN") else "FrozenBN"
    },
    "MODEL.RESNETS.STEM_FUNC": None,
    "MODEL.USE_SYNCBN": lambda v: {"MODEL.TIMM.NORM": "SyncBN"} if v else {},
    "MODEL.FPN.USE_GN": lambda v: {"MODEL.FPN.NORM": "GN" if v else ""},
    "MODEL.FPN.USE_RELU": "MODEL.FCOS.FPN_RELU",
    "MODEL.RETINANET.USE_C5": lambda v: {"MODEL.FCOS.TOP_BLOCK_IN": "res5" if v else "p5"},
    "MODEL.FCOS.NUM_CLASSES": lambda v: {"MODEL.FCOS.NUM_CLASSES": v - 1},
    "MODEL.FCOS.FPN_STRIDES": None,
    "MODEL.FCOS.INFERENCE_TH": _both("INFERENCE_TH"),
    "MODEL.FCOS.PRE_NMS_TOP_N": _both("PRE_NMS_TOPK"),
    "MODEL.FCOS.NUM_CONVS": lambda v: {
        "MODEL.FCOS.NUM_CLS_CONVS": v,
        "MODEL.FCOS.NUM_BOX_CONVS": v,
    },
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": _radius,
    "MODEL.FCOS.NORM_REG_TARGETS": lambda v: {
        "MODEL.FCOS.BOX_REPRESENTATION": "ltrb_relu" if v else "ltrb_exp"
    },
    "MODEL.FCOS.IOU_LOSS_TYPE": "MODEL.FCOS.LOC_LOSS_TYPE",
    "MODEL.FCOS.USE_DCN_IN_TOWER": "MODEL.FCOS.USE_DEFORMABLE",
    "INPUT.PIXEL_MEAN": "MODEL.PIXEL_MEAN",
    "INPUT.PIXEL_STD": "MODEL.PIXEL_STD",
    "INPUT.MIN_SIZE_TRAIN": lambda v: {
        "INPUT.MIN_SIZE_TRAIN": tuple(v) if isinstance(v, (list, tuple)) else (v,)
    },
    "INPUT.MIN_SIZE_RANGE_TRAIN": _size_range,
    "TEST.DETECTIONS_PER_IMG": _both("POST_NMS_TOPK"),
    "TEST.IMS_PER_BATCH": None,
    "DATASETS.TRAIN": None,
    "DATASETS.TEST": None,
    "DATALOADER.SIZE_DIVISIBILITY": None,
    "OUTPUT_DIR": None,
}
_SAME = {
    *(f"MODEL.RESNETS.{k}" for k in ("NUM_GROUPS", "WIDTH_PER_GROUP", "STRIDE_IN_1X1")),
    *(f"MODEL.RESNETS.{k}" for k in ("RES5_DILATION", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS")),
    *(f"MODEL.FCOS.{k}" for k in ("PRIOR_PROB", "NMS_TH", "LOSS_ALPHA", "LOSS_GAMMA")),
    "MODEL.FCOS.CENTERNESS_ON_REG",
    *(f"INPUT.{k}" for k in ("MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")),
    *(f"SOLVER.{k}" for k in ("BASE_LR", "BIAS_LR_FACTOR", "WEIGHT_DECAY", "WEIGHT_DECAY_BIAS")),
    *(f"SOLVER.{k}" for k in ("MOMENTUM", "GAMMA", "STEPS", "MAX_ITER", "IMS_PER_BATCH")),
    *(f"SOLVER.{k}" for k in ("WARMUP_METHOD", "WARMUP_ITERS", "WARMUP_FACTOR")),
    "SOLVER.CHECKPOINT_PERIOD",
}


def _read_config(path: str) -> FCOSCfgNode:
    with open(path, encoding="utf-8") as file:
        foreign = flatten(_plain(yaml.safe_load(file)))
    # A range of sizes replaces the list of sizes, in any order of the keys.
    size_range = foreign.get("INPUT.MIN_SIZE_RANGE_TRAIN")
    if size_range and _plain(size_range)[0] > 0:
        foreign.pop("INPUT.MIN_SIZE_TRAIN", None)
    return map_config(foreign, "official/Base-official.yaml", _CONFIG_RULES, _SAME.__contains__)


def _plain(value: Any) -> Any:
    """Parse tuples, which these YAML files write as text."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, str) and value.startswith("("):
        return yaml.safe_load("[" + value.strip("()").rstrip(",") + "]")
    return value


FORMAT = Format(
    name="official",
    prefix="rpn.head.",
    convert=_convert,
    compat=Compat(one_pixel_boxes=True),
    read_config=_read_config,
)
