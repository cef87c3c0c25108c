"""FCOS's assignment (arXiv 1904.01355) with center sampling (arXiv 2006.09214).

With center sampling only a few cells around a box's center can be positive on each level.
:class:`CenterAssigner` looks only at those, so its cost follows the number of boxes. Its
``assign_image`` is the rule for arbitrary locations and compares all of them with all boxes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..box_coder import ltrb_distances
from ..ground_truth import GroundTruth
from ..head import Predictions
from ..locations import Grid, Locations
from .assignment import Assignment

__all__ = ["CenterAssigner"]

# Location-box pairs held in memory at once, for images with thousands of boxes.
_PAIRS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class CenterAssigner:
    """FCOS's rule.

    A location is positive for a box if it lies strictly inside the box (and, with center
    sampling, within ``center_radius`` strides of the box's center) and if the largest of its four
    distances is in the size range of its level, both ends included. Of several such boxes the
    smallest one wins; of equally small boxes the first.

    Attributes:
        ranges: L pairs (low, high) of ``max(l, t, r, b)`` in pixels; see ``size_ranges``.
        center_radius: center-sampling radius in strides; ``None``: every location inside the box
            is positive.
        plus_one_area: measure area as (w + 1) * (h + 1), as the official code does.
        exclusive_ranges: exclude both ends of the size ranges, as torchvision does.
    """

    ranges: Sequence[tuple[float, float]]
    center_radius: float | None = 1.5
    plus_one_area: bool = False
    exclusive_ranges: bool = False

    def __post_init__(self):
        if self.center_radius is not None and self.center_radius <= 0:
            raise ValueError(
                f"MODEL.FCOS.POS_RADIUS must be positive, got {self.center_radius}; set "
                "MODEL.FCOS.CENTER_SAMPLE False to learn from whole boxes"
            )

    def __call__(
        self,
        locations: Locations,
        ground_truth: GroundTruth,
        predictions: Predictions | None = None,
    ) -> Assignment:
        """Assign the locations of a batch to its boxes; the predictions are not used."""
        if self.center_radius is None:
            return self._assign_whole_boxes(locations, ground_truth)
        boxes, counts = ground_truth.boxes, ground_truth.counts
        image_of_box = torch.cat(
            [boxes.new_full((n,), i, dtype=torch.int64) for i, n in enumerate(counts)]
        )
        numbers = torch.arange(len(boxes), device=boxes.device)
        levels, start = [], 0
        for grid, bounds in zip(locations.grids, self.ranges, strict=True):
            cell, candidate = self._center_cells(grid, bounds, boxes, self.center_radius)
            box = numbers[:, None].expand_as(cell)
            pairs = (image_of_box[box], cell + start, box, candidate)
            levels.append([x.flatten() for x in pairs])
            start += grid.height * grid.width
        sizes = [len(pairs) for pairs, *_ in levels]
        image, index, box, candidate = (torch.cat(parts) for parts in zip(*levels))
        # A location that several boxes could take goes to the box of the lowest rank.
        rank = torch.empty_like(numbers)
        rank[_smallest_first(boxes, self.plus_one_area)] = numbers
        pair_rank = torch.where(candidate, rank[box], len(boxes))
        location = image * len(locations.points) + index
        lowest = pair_rank.new_full((len(counts) * len(locations.points),), len(boxes))
        lowest.scatter_reduce_(0, location, pair_rank, "amin")
        positive = candidate & (lowest[location] == pair_rank)
        return Assignment(image, index, box, positive, sizes)

    def assign_image(
        self,
        points: Tensor,
        strides: Tensor,
        ranges: Tensor,
        boxes: Tensor,
        pairs_at_once: int = _PAIRS_AT_ONCE,
    ) -> Tensor:
        """Assign arbitrary locations of one image to its boxes.

        Args:
            points: (P, 2) x, y in pixels.
            strides: (P,) in pixels.
            ranges: (P, 2) lowest and highest ``max(l, t, r, b)`` in pixels.
            boxes: (M, 4) x1, y1, x2, y2 in pixels.
            pairs_at_once: upper bound of location-box pairs held in memory at a time.

        Returns:
            (P,) int64 index of the assigned box, -1 for background.
        """
        assigned = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
        if len(boxes) == 0 or len(points) == 0:
            return assigned
        order = _smallest_first(boxes, self.plus_one_area)
        for indices in order.split(max(1, pairs_at_once // len(points))):
            candidates = self._candidates_mask(points, strides, ranges, boxes[indices])
            found, first = candidates.max(dim=1)  # the first of equal maxima: the smallest box
            assigned = torch.where((assigned < 0) & found, indices[first], assigned)
        return assigned

    def _assign_whole_boxes(self, locations: Locations, ground_truth: GroundTruth) -> Assignment:
        """Assignment without center sampling: one pair for each location, none without boxes."""
        sizes, counts = locations.level_sizes, ground_truth.counts
        if not len(ground_truth.boxes):
            empty = locations.points.new_zeros(0, dtype=torch.int64)
            return Assignment(empty, empty, empty, empty.bool(), [0] * len(sizes))
        levels = list(zip(self.ranges, sizes, strict=True))
        low, high = (
            torch.cat([locations.points.new_full((n,), bounds[end]) for bounds, n in levels])
            for end in (0, 1)
        )
        ranges = torch.stack((low, high), dim=1)
        assigned, before = [], 0
        for boxes in ground_truth.boxes.split(counts):
            index = self.assign_image(locations.points, locations.strides, ranges, boxes)
            assigned.append(torch.where(index < 0, index, index + before))
            before += len(boxes)
        box = torch.stack(assigned)
        image = torch.arange(len(box), device=box.device)[:, None].expand_as(box)
        index = torch.arange(box.shape[1], device=box.device).expand_as(box)
        image, index, box = (
            torch.cat([part.flatten() for part in x.split(sizes, dim=1)])
            for x in (image, index, box)
        )
        return Assignment(
            image, index, box.clamp(min=0), box >= 0, [len(counts) * n for n in sizes]
        )

    def _center_cells(
        self, grid: Grid, bounds: tuple[float, float], boxes: Tensor, radius: float
    ) -> tuple[Tensor, Tensor]:
        """Cells of one level within the radius of each box's center.

        Returns:
            (M, K) index of the cell in its map, and (M, K) bool, True where it is a candidate.
        """
        column, inside_x, farthest_x = _center_window(grid, 0, boxes, radius)
        row, inside_y, farthest_y = _center_window(grid, 1, boxes, radius)
        farthest = torch.maximum(farthest_x[:, None, :], farthest_y[:, :, None])
        candidate = self._in_range(farthest, *bounds) & inside_x[:, None, :] & inside_y[:, :, None]
        cell = row[:, :, None] * grid.width + column[:, None, :]
        return cell.flatten(1), candidate.flatten(1)

    def _candidates_mask(
        self, points: Tensor, strides: Tensor, ranges: Tensor, boxes: Tensor
    ) -> Tensor:
        """(P, M) bool, True where a location is in the positive region and size range of a box."""
        distances = ltrb_distances(points[:, None], boxes[None])
        in_range = self._in_range(distances.amax(dim=2), ranges[:, :1], ranges[:, 1:])
        if self.center_radius is None:
            return in_range & (distances.amin(dim=2) > 0)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        reach = (strides * self.center_radius)[:, None, None]
        low = torch.maximum(centers - reach, boxes[:, :2])
        high = torch.minimum(centers + reach, boxes[:, 2:])
        inside = (points[:, None] > low) & (points[:, None] < high)
        return in_range & inside.all(dim=2)

    def _in_range(self, largest: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        if self.exclusive_ranges:
            return (largest > low) & (largest < high)
        return (largest >= low) & (largest <= high)


def _center_window(
    grid: Grid, axis: int, boxes: Tensor, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns (axis 0) or rows (axis 1) of a level within the radius of each box's center.

    Returns:
        (M, S) index, clamped to the map; (M, S) bool, True if the line lies inside the box, the
        radius and the map; (M, S) larger distance from the line to the two sides of the box.
    """
    length, step = ((grid.width, grid.step_x), (grid.height, grid.step_y))[axis]
    first_side, last_side = boxes[:, axis, None], boxes[:, axis + 2, None]
    center = (first_side + last_side) / 2
    reach = (torch.tensor(float(grid.stride)) * radius).item()  # float32, as in the dense rule
    low, high = center - reach, center + reach
    # An open interval of length 2 * reach holds at most this many lines.
    count = math.ceil(2 * radius * grid.stride / step)
    before = torch.floor((_as_float64(low) - grid.shift) / step)
    index = before.clamp(-count - 1, length).long() + torch.arange(
        1, count + 1, device=boxes.device
    )
    position = index.to(boxes.dtype) * step + grid.shift
    inside = (position > torch.maximum(low, first_side)) & (
        position < torch.minimum(high, last_side)
    )
    inside &= (index >= 0) & (index < length)
    farthest = torch.maximum(position - first_side, last_side - position)
    return index.clamp(0, length - 1), inside, farthest


def _smallest_first(boxes: Tensor, plus_one: bool) -> Tensor:
    """Indices of the boxes by increasing area; equal areas keep their order."""
    exact = _as_float64(boxes)  # float32 cannot tell the areas of huge boxes apart
    sides = exact[:, 2:] - exact[:, :2] + (1 if plus_one else 0)
    return torch.argsort(sides.prod(dim=1), stable=True)


def _as_float64(x: Tensor) -> Tensor:
    """The tensor in float64, which only Apple's GPUs lack."""
    return x if x.device.type == "mps" else x.double()
