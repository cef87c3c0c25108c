"""Overlapping tiles of large images: their positions, and how their detections are merged."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou

__all__ = ["cut_by_tile", "merge_tiles", "tile_windows"]

# Share of a cut box that must lie inside another box to be a part of the same object.
_PART_OF = 0.7
# Largest distance in pixels between a cut box and the edge of its tile.
_EDGE = 2.0


def tile_windows(
    height: int, width: int, tile: int, overlap: float = 0.2
) -> list[tuple[int, int, int, int]]:
    """Windows that cover an image.

    Args:
        height, width: image size in pixels.
        tile: side of a tile in pixels; windows are only smaller where the image is.
        overlap: smallest share of a tile that the next tile repeats.

    Returns:
        (x1, y1, x2, y2) of each window, row by row.

    Raises:
        ValueError: for a tile without pixels, or an overlap outside [0, 1).
    """
    if tile < 1:
        raise ValueError(f"a tile must have at least 1 pixel, got {tile}")
    if not 0 <= overlap < 1:
        raise ValueError(f"the overlap of tiles must be at least 0 and below 1, got {overlap}")
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    return [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def cut_by_tile(boxes: Tensor, window: Sequence[int], height: int, width: int) -> Tensor:
    """Find boxes that end at an edge of their tile, where it is not also an edge of the image.

    Args:
        boxes: (K, 4) in pixels of the image.
        window: x1, y1, x2, y2 of the tile.
        height, width: image size in pixels.

    Returns:
        (K,) bool.
    """
    x1, y1, x2, y2 = window
    cut = torch.zeros(len(boxes), dtype=torch.bool)
    if x1 > 0:
        cut |= boxes[:, 0] <= x1 + _EDGE
    if y1 > 0:
        cut |= boxes[:, 1] <= y1 + _EDGE
    if x2 < width:
        cut |= boxes[:, 2] >= x2 - _EDGE
    if y2 < height:
        cut |= boxes[:, 3] >= y2 - _EDGE
    return cut


def merge_tiles(
    boxes: Tensor, scores: Tensor, classes: Tensor, cut: Tensor, iou_threshold: float
) -> Tensor:
    """Merge detections of all tiles by an NMS in which whole boxes suppress cut boxes.

    A box is suppressed if a better box of its class overlaps it by more than ``iou_threshold``. A
    cut box is also suppressed if most of it lies inside a better box. Whole boxes are better than
    cut boxes; within each group the score decides.

    Args:
        boxes: (K, 4) in pixels of the image.
        scores: (K,).
        classes: (K,) int64.
        cut: (K,) bool, see :func:`cut_by_tile`.
        iou_threshold: see NMS.

    Returns:
        Indices of the remaining detections, by descending score.
    """
    order = torch.argsort(scores - 2.0 * cut, descending=True, stable=True)
    kept: list[int] = []
    suppressed = torch.zeros(len(boxes), dtype=torch.bool)
    area = box_area(boxes).clamp(min=1e-6)
    for i in order.tolist():
        if suppressed[i]:
            continue
        kept.append(i)
        same = classes == classes[i]
        suppressed |= same & (box_iou(boxes[i, None], boxes)[0] > iou_threshold)
        corner = torch.maximum(boxes[i, :2], boxes[:, :2])
        sides = (torch.minimum(boxes[i, 2:], boxes[:, 2:]) - corner).clamp(min=0)
        suppressed |= same & cut & (sides.prod(dim=1) / area > _PART_OF)
    keep = torch.tensor(kept, dtype=torch.int64)
    return keep[torch.argsort(scores[keep], descending=True, stable=True)]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(length - tile) // step) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]
