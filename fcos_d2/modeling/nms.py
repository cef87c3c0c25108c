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
        max_detections: stop the soft ones after so many; negative for all.

    Returns:
        Indices of the boxes kept, and their scores, by descending score.

    Raises:
        ValueError: for another kind.
    """
    if kind == "per_class":
        keep = batched_nms(boxes, scores, classes, iou_threshold)
    elif kind == "class_agnostic":
        keep = nms(boxes, scores, iou_threshold)
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
    return keep, scores[keep]


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
