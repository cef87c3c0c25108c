"""Which location learns which box (FCOS papers: arXiv 1904.01355, centre sampling 2006.09214)."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["assign_boxes", "assign_image", "inside_any", "ltrb_distances"]

# Locations x boxes handled at once: bounds the memory of an image with thousands of boxes.
_PAIRS_AT_ONCE = 4_000_000


def ltrb_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Distances from points to the left, top, right and bottom side of boxes.

    Args:
        points: (..., 2) x, y.
        boxes: (..., 4) x1, y1, x2, y2, broadcast against ``points``.

    Returns:
        (..., 4), negative where the point lies outside the box.
    """
    x, y = points[..., 0], points[..., 1]
    return torch.stack(
        (x - boxes[..., 0], y - boxes[..., 1], boxes[..., 2] - x, boxes[..., 3] - y), dim=-1
    )


def inside_any(points: Tensor, boxes: Tensor) -> Tensor:
    """(P,) whether a point lies strictly inside one of (K, 4) boxes."""
    return (ltrb_distances(points[:, None], boxes[None]).amin(dim=2) > 0).any(dim=1)


def assign_image(
    points: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    *,
    center_radius: float | None = 1.5,
    plus_one_area: bool = False,
    exclusive_ranges: bool = False,
    pairs_at_once: int = _PAIRS_AT_ONCE,
) -> Tensor:
    """Match the locations of one image to its boxes.

    A location owns a box if it lies strictly inside the box (and, with centre sampling, within
    ``center_radius`` strides of the box's centre) and if the largest of its four distances is in
    the size range of its level, both ends included. Of several such boxes the one of the smallest
    area wins; of equal areas the one listed first.

    Args:
        points: (P, 2) x, y in pixels.
        strides: (P,) in pixels.
        ranges: (P, 2) lowest and highest ``max(l, t, r, b)`` in pixels.
        boxes: (M, 4) x1, y1, x2, y2 in pixels.
        center_radius: in strides; ``None`` takes the whole box.
        plus_one_area: measure area as (w + 1) * (h + 1), as the official code does.
        exclusive_ranges: leave out both ends of the size ranges, as torchvision does.
        pairs_at_once: upper bound of location-box pairs held in memory at a time.

    Returns:
        (P,) int64 index of the matched box, -1 for background.
    """
    matched = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if len(boxes) == 0 or len(points) == 0:
        return matched
    order = _smallest_first(boxes, plus_one_area)
    for indices in order.split(max(1, pairs_at_once // len(points))):
        owns = _may_own(
            points, strides, ranges, boxes[indices], center_radius, exclusive_ranges
        )  # (P, m)
        found, first = owns.max(dim=1)  # the first of equal maxima, that is of the smallest area
        matched = torch.where((matched < 0) & found, indices[first], matched)
    return matched


def assign_boxes(
    points: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes: Sequence[Tensor],
    **options,
) -> Tensor:
    """:func:`assign_image` for a batch.

    Args:
        points, strides, ranges: as there, shared by the images.
        boxes: N tensors (M_i, 4); any of them may be empty.
        **options: the keyword arguments of :func:`assign_image`.

    Returns:
        (N, P) int64 index of the matched box within its image, -1 for background.
    """
    return torch.stack([assign_image(points, strides, ranges, b, **options) for b in boxes])


def _smallest_first(boxes: Tensor, plus_one: bool) -> Tensor:
    """Indices of the boxes by increasing area, equal areas in the order given."""
    # float64 keeps the areas of huge boxes apart; only Apple's GPUs lack it.
    exact = boxes.to(torch.float32 if boxes.device.type == "mps" else torch.float64)
    sides = exact[:, 2:] - exact[:, :2] + (1 if plus_one else 0)
    return torch.argsort(sides.prod(dim=1), stable=True)


def _may_own(
    points: Tensor,
    strides: Tensor,
    ranges: Tensor,
    boxes: Tensor,
    radius: float | None,
    exclusive: bool,
) -> Tensor:
    """(P, M) whether a location lies in the part of the box and the size range it may learn."""
    distances = ltrb_distances(points[:, None], boxes[None])
    largest = distances.amax(dim=2)
    low, high = ranges[:, :1], ranges[:, 1:]
    if exclusive:
        in_range = (largest > low) & (largest < high)
    else:
        in_range = (largest >= low) & (largest <= high)
    if radius is None:
        return in_range & (distances.amin(dim=2) > 0)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    reach = (strides * radius)[:, None, None]
    low = torch.maximum(centers - reach, boxes[:, :2])
    high = torch.minimum(centers + reach, boxes[:, 2:])
    inside = (points[:, None] > low) & (points[:, None] < high)
    return in_range & inside.all(dim=2)
