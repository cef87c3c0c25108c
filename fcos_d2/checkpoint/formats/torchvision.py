"""Checkpoints of FCOS in torchvision (``torchvision.models.detection.fcos``)."""

from ...modeling.compat import Compat
from .format import RESNET_RULES, Format, State, rename

__all__ = ["FORMAT"]

_RULES = (
    (r"^backbone\.body\.", "backbone.bottom_up."),
    *RESNET_RULES,
    (
        r"^backbone\.fpn\.inner_blocks\.(\d)\.0\.",
        lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}.",
    ),
    (r"^backbone\.fpn\.layer_blocks\.(\d)\.0\.", lambda m: f"backbone.fpn_output{int(m[1]) + 3}."),
    (r"^backbone\.fpn\.extra_blocks\.", "backbone.top_block."),
    (r"^head\.classification_head\.conv\.", "head.cls_tower."),
    (r"^head\.classification_head\.", "head."),
    (r"^head\.regression_head\.conv\.", "head.bbox_tower."),
    (r"^head\.regression_head\.bbox_reg\.", "head.bbox_pred."),
    (r"^head\.regression_head\.bbox_ctrness\.", "head.ctrness."),
)
# COCO has 80 category ids from 1 to 90. The published model has one channel per number.
_COCO_CHANNELS = 91
_NO_CATEGORY = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


def _convert(state: State) -> State:
    state = rename(state, _RULES)
    kept = [i for i in range(_COCO_CHANNELS) if i not in _NO_CATEGORY]
    for key in ("head.cls_logits.weight", "head.cls_logits.bias"):
        if key in state and len(state[key]) == _COCO_CHANNELS:
            state[key] = state[key][kept]
    return state


FORMAT = Format(
    name="torchvision",
    prefix="head.classification_head.",
    convert=_convert,
    compat=Compat(
        grid_locations=True,
        exclusive_ranges=True,
        unsmoothed_iou=True,
        unweighted_box_loss=True,
        root_score_threshold=True,
        clip_before_nms=True,
        keep_empty_boxes=True,
    ),
    default_config="torchvision/fcos_resnet50_fpn.yaml",
)
