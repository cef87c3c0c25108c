"""Box and centerness losses of FCOS (arXiv 1904.01355, 2006.09214) on ltrb distances.

All losses compute in float32, even for half-precision inputs, because products of distances leave
the range of float16 at ordinary box sizes.
"""

import torch
from torch import Tensor

__all__ = ["BOX_LOSSES", "centerness_targets", "ltrb_iou_loss"]

BOX_LOSSES = ("iou", "linear_iou", "giou")


def ltrb_iou_loss(
    predicted: Tensor, target: Tensor, kind: str = "giou", smoothing: float = 1.0
) -> tuple[Tensor, Tensor]:
    """IoU-family loss of two boxes around the same location, given as ltrb distances.

    Intersection and union are increased by ``smoothing``, one in the published code, which keeps
    the logarithm finite. The loss therefore depends a little on the unit of the distances.

    Args:
        predicted: (K, 4) distances to left, top, right, bottom, not negative.
        target: (K, 4) in the same unit.
        kind: "iou" (-ln IoU, arXiv 1608.01471), "linear_iou" (1 - IoU) or "giou" (1 - GIoU,
            arXiv 1902.09630).
        smoothing: 0 for the plain IoU, whose logarithm then stops at 1e-6.

    Returns:
        (K,) losses and (K,) smoothed IoU, float32.

    Raises:
        ValueError: for another ``kind``.
    """
    predicted, target = predicted.float(), target.float()
    # Width and height of a box around the location: l + r and t + b.
    area_p = (predicted[:, :2] + predicted[:, 2:]).prod(dim=1)
    area_t = (target[:, :2] + target[:, 2:]).prod(dim=1)
    smaller, larger = torch.minimum(predicted, target), torch.maximum(predicted, target)
    intersection = (smaller[:, :2] + smaller[:, 2:]).prod(dim=1)
    union = area_p + area_t - intersection
    iou = (intersection + smoothing) / (union + smoothing)
    if kind == "iou":
        return -iou.clamp(min=1e-6).log(), iou
    if kind == "linear_iou":
        return 1 - iou, iou
    if kind == "giou":
        enclosing = (larger[:, :2] + larger[:, 2:]).prod(dim=1)
        return 1 - iou + (enclosing - union) / enclosing, iou
    raise ValueError(f"unknown box loss {kind!r}, expected one of {', '.join(BOX_LOSSES)}")


def centerness_targets(ltrb: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` of locations inside a box.

    Args:
        ltrb: (K, 4) positive distances, any unit.

    Returns:
        (K,) in (0, 1], float32.
    """
    ltrb = ltrb.float()
    first, second = ltrb[:, :2], ltrb[:, 2:]
    ratio = torch.minimum(first, second) / torch.maximum(first, second)
    return ratio.prod(dim=1).sqrt()
