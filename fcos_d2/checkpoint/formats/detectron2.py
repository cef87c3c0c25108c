"""Checkpoints of FCOS in detectron2 (``detectron2.modeling.meta_arch.FCOS``, lazy configs)."""

import re

from ...modeling.compat import Compat
from .format import Format, State, rename

__all__ = ["FORMAT"]

_RULES = (
    (r"^head\.cls_subnet\.", "head.cls_tower."),
    (r"^head\.bbox_subnet\.", "head.bbox_tower."),
    (r"^head\.cls_score\.", "head.cls_logits."),
)
_STATISTICS = re.compile(r"(head\.\w+_tower\.\d+)\.(\d+)\.running_mean")


def _convert(state: State) -> State:
    state = rename(state, _RULES)
    # Batch norms of detectron2 have statistics per level and shared weights.
    levels = [m for m in map(_STATISTICS.fullmatch, state) if m]
    for norm, level in (m.groups() for m in levels):
        for name in ("weight", "bias"):
            state[f"{norm}.{level}.{name}"] = state[f"{norm}.{name}"]
    for norm in {m[1] for m in levels}:
        del state[f"{norm}.weight"], state[f"{norm}.bias"]
    return state


FORMAT = Format(
    name="detectron2",
    prefix="head.cls_subnet.",
    convert=_convert,
    compat=Compat(
        exclusive_ranges=True,
        unsmoothed_iou=True,
        unweighted_box_loss=True,
        root_score_threshold=True,
    ),
    unused=r".*\.cell_anchors\..*|pixel_(mean|std)",
    default_config="detectron2/fcos_R_50_FPN_1x.yaml",
)
