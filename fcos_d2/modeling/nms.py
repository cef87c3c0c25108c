"""NMS within classes, across classes, or soft (arXiv 1704.04503)."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, nms

__all__ = ["NMS_TYPES", "apply_nms", "soft_nms"]

NMS_TYPES = ("per_class", "class_agnostic", "soft_linear", "soft_gaussian", "none")


def apply_nms(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    *,
    nms_type: str = "per_class",
    iou_threshold: float = 0.6,
    sigma: float = 0.5,
    max_detections: int = -1,
) -> tuple[Tensor, Tensor]:
    """Select boxes, best first.

    Args:
        boxes: (K, 4) x1, y1, x2, y2.
        scores: (K,).
        classes: (K,) int64.
        nms_type: "per_class" removes the lower-scoring of two boxes of a class that overlap by
            more than ``iou_threshold``; "class_agnostic" does so for boxes of any classes;
            "soft_linear" and "soft_gaussian" reduce its score instead, see :func:`soft_nms`;
            "none" keeps all boxes.
        iou_threshold: threshold of the first three types.
        sigma: sigma of "soft_gaussian".
        max_detections: largest number of boxes returned; negative returns all.

    Returns:
        Indices of the kept boxes, and their scores, by descending score.

    Raises:
        ValueError: for another type.
    """
    if nms_type in ("per_class", "class_agnostic"):
        groups = classes if nms_type == "per_class" else None
        keep = _hard_nms(boxes, scores, groups, iou_threshold, max_detections)
    elif nms_type == "none":
        keep = scores.argsort(descending=True, stable=True)
    elif nms_type in NMS_TYPES:
        return soft_nms(
            boxes,
            scores,
            classes,
            linear_threshold=iou_threshold if nms_type == "soft_linear" else None,
            sigma=sigma,
            max_detections=max_detections,
        )
    else:
        raise ValueError(
            f"MODEL.FCOS.NMS_TYPE is {nms_type!r}, expected one of {', '.join(NMS_TYPES)}"
        )
    if max_detections >= 0:
        keep = keep[:max_detections]
    return keep, scores[keep]


def _hard_nms(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, limit: int
) -> Tensor:
    """Indices of the boxes that NMS keeps, best first; the first ``limit`` are complete.

    A box is only suppressed by higher-scoring ones, so NMS runs on the top boxes first and widens
    if too few survive.
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

    Picks the best box, reduces the scores of the boxes of its class by their IoU with it, and
    repeats.

    Args:
        boxes, scores, classes: as in :func:`apply_nms`.
        linear_threshold: multiply by ``1 - IoU`` above this IoU; ``None`` multiplies by
            ``exp(-IoU**2 / sigma)``.
        sigma: width of that Gaussian; a smaller one reduces scores more.
        min_score: boxes whose score falls below are dropped.
        max_detections: largest number of boxes picked; negative picks all.

    Returns:
        Indices in the order of picking, and their reduced scores, descending.
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
