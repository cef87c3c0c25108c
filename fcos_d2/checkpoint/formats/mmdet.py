"""Checkpoints of mmdetection's FCOS (github.com/open-mmlab/mmdetection, versions 2 and 3)."""

import torch

from ...modeling.compat import Compat
from .format import RESNET_RULES, Format, State, rename

__all__ = ["FORMAT"]


def _fpn_output(match) -> str:
    i = int(match[1])
    return f"backbone.fpn_output{i + 3}." if i < 3 else f"backbone.top_block.p{i + 3}."


_RULES = (
    (r"^backbone\.", "backbone.bottom_up."),
    *RESNET_RULES,
    (r"^(backbone\.bottom_up\..*)conv2\.conv_offset\.", r"\1conv2_offset."),
    (
        r"^neck\.lateral_convs\.(\d)\.",
        lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}.",
    ),
    (r"^neck\.fpn_convs\.(\d)\.", _fpn_output),
    (r"^(backbone\.(?:fpn_\w+|top_block\.p\d)\.)conv\.", r"\1"),
    (r"^(backbone\.fpn_\w+\.)(?:bn|gn)\.", r"\1norm."),
    (r"^bbox_head\.(?:conv|fcos)_cls\.", "head.cls_logits."),
    (r"^bbox_head\.(?:conv|fcos)_reg\.", "head.bbox_pred."),
    (r"^bbox_head\.(?:conv|fcos)_centerness\.", "head.ctrness."),
    (r"^bbox_head\.scales\.", "head.scales."),
    (r"^bbox_head\.reg_convs\.", "head.bbox_tower."),
    (r"^bbox_head\.cls_convs\.", "head.cls_tower."),
)


def _convert(state: State) -> State:
    state = rename({k: v for k, v in state.items() if not k.startswith("ema_")}, _RULES)
    for key in [k for k in state if k.startswith("head.scales.")]:
        state[key] = state[key].reshape(1)
    for tower in ("head.cls_tower.", "head.bbox_tower."):
        state = _tower_names(state, tower)
    return state


def _tower_names(state: State, tower: str) -> State:
    """Rename tower layers: index of the convolution -> index in [convolution, norm, ReLU, ...]."""
    inside = {k: v for k, v in state.items() if k.startswith(tower)}
    others = {k: v for k, v in state.items() if k not in inside}
    step = 3 if any(".gn." in k for k in inside) else 2
    deformable = {k.split(".")[2] for k in inside if ".conv_offset." in k}
    renamed = {}
    for key, value in inside.items():
        _, _, index, layer, *rest = key.split(".")
        position = step * int(index)
        if layer == "gn":
            name = f"{position + 1}"
        elif index not in deformable:
            name = f"{position}"
        elif rest[0] == "conv_offset":
            name, rest = f"{position}.offset", rest[1:]
        else:
            name = f"{position}.conv"
        renamed[".".join([tower + name, *rest])] = value
    # A convolution without bias equals one with zero bias.
    for key, value in list(renamed.items()):
        bias = key.removesuffix("weight") + "bias"
        if value.dim() == 4 and bias not in renamed:
            renamed[bias] = torch.zeros(len(value))
    return {**others, **renamed}


FORMAT = Format(
    name="mmdet",
    prefix="bbox_head.",
    convert=_convert,
    compat=Compat(
        unsmoothed_iou=True, topk_by_class_score=True, product_scores=True, clip_before_nms=True
    ),
    unused=r"data_preprocessor\..*",
)
