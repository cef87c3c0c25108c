"""Choosing among overlapping boxes: NMS within classes, across them, or soft (arXiv 1704.04503)."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, nms

__all__ = ["NMS_TYPES", "soft_nms", "suppress"]

NMS_TYPES = ("per_class", "class_agnostic", "soft_linear", "soft_gaussian", "none")


def suppress(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    kind: str = "per_class",
    iou_threshold: float = 0.6,
    sigma: float = 0.5,
    max_detections: int = -1,
) -> tuple[Tensor, Tensor]:
    """Pick boxes, best first.

    Args:
        boxes: (K, 4) x1, y1, x2, y2; scores: (K,); classes: (K,) int64.
        kind: "per_class": the lower of two boxes of a class goes if they overlap by more than
            ``iou_threshold``; "class_agnostic": of any classes; "soft_linear" and
            "soft_gaussian": its score falls instead, see :func:`soft_nms`; "none": all stay.
        iou_threshold: of the first three.
        sigma: of "soft_gaussian".
        max_detections: stop after so many; negative for all.

    Returns:
        Indices of the boxes kept, and their scores, by descending score.

    Raises:
        ValueError: for another kind.
    """
    if kind in ("per_class", "class_agnostic"):
        groups = classes if kind == "per_class" else None
        keep = _hard_nms(boxes, scores, groups, iou_threshold, max_detections)
    elif kind == "none":
        keep = scores.argsort(descending=True, stable=True)
    elif kind in NMS_TYPES:
        return soft_nms(
            boxes,
            scores,
            classes,
            linear_threshold=iou_threshold if kind == "soft_linear" else None,
            sigma=sigma,
            max_detections=max_detections,
        )
    else:
        raise ValueError(f"MODEL.FCOS.NMS_TYPE is {kind!r}, expected one of {', '.join(NMS_TYPES)}")
    if max_detections >= 0:
        keep = keep[:max_detections]
    return keep, scores[keep]


def _hard_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, limit: int
) -> Tensor:
    """Indices kept, at least ``limit`` of them if there are so many.

    Whether a box stays depends on none of a lower score. So the best boxes are looked at alone as
    long as they are enough.
    """
    order = scores.argsort(descending=True, stable=True)
    count = len(order) if limit < 0 else min(len(order), 4 * limit)
    while True:
        best = order[:count]
        if groups is None:
            keep = nms(boxes[best], scores[best], iou_threshold)
        else:
            keep = batched_nms(boxes[best], scores[best], groups[best], iou_threshold)
        if len(keep) >= limit >= 0 or count == len(order):
            return best[keep]
        count = min(len(order), 4 * count)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    linear_threshold: float | None = None,
    sigma: float = 0.5,
    min_score: float = 1e-3,
    max_detections: int = -1,
) -> tuple[Tensor, Tensor]:
    """Soft-NMS within each class.

    The best box is picked, the scores of those of its class fall with their IoU to it, and so on.

    Args:
        boxes, scores, classes: as in :func:`suppress`.
        linear_threshold: multiply by ``1 - IoU`` above this IoU; ``None`` multiplies by
            ``exp(-IoU**2 / sigma)``.
        sigma: of the latter; the smaller, the harder.
        min_score: boxes whose score falls below are dropped.
        max_detections: how many to pick at the most; negative for all.

    Returns:
        Indices in the order of picking, and scores, which fall.
    """
    scores = scores.clone()
    limit = len(scores) if max_detections < 0 else min(max_detections, len(scores))
    picked, picked_scores = [], []
    for _ in range(limit):
        best = scores.argmax()
        value = scores[best].clone()
        if value < min_score:
            break
        picked.append(best)
        picked_scores.append(value)
        overlap = box_iou(boxes[best, None], boxes)[0] * (classes == classes[best])
        if linear_threshold is None:
            scores *= torch.exp(-(overlap**2) / sigma)
        else:
            scores *= torch.where(overlap > linear_threshold, 1 - overlap, 1.0)
        scores[best] = -1.0
    if not picked:
        return scores.new_zeros(0, dtype=torch.int64), scores.new_zeros(0)
    return torch.stack(picked), torch.stack(picked_scores)
