"""Which location learns which box (FCOS papers: arXiv 1904.01355, centre sampling 2006.09214).

With centre sampling a box can own but a few locations of each level, which follow from its centre.
:func:`assign_boxes` looks at no others, so that its cost follows the boxes;
:func:`assign_image` is the rule for any locations, and looks at all pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..locations import Grid, Locations

__all__ = ["Matches", "assign_boxes", "assign_image", "inside_any", "ltrb_distances"]

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


@dataclass
class Matches:
    """Pairs of a location and a box, of which those count that own each other.

    How many pairs :func:`assign_boxes` gives follows from shapes alone, so that nothing waits for
    a GPU.

    Attributes:
        image: (K,) int64.
        point: (K,) int64 index among the P locations, which increases from level to level.
        box: (K,) int64 index among the boxes of all images.
        owns: (K,) bool, whether the location learns this box; none owns two.
        level_sizes: number of pairs of each level; their sum is K.
    """

    image: Tensor
    point: Tensor
    box: Tensor
    owns: Tensor
    level_sizes: list[int]

    def owned(self) -> "Matches":
        """The pairs that count alone; on a GPU this waits for it."""
        kept = self.owns.nonzero().squeeze(1)
        sizes = [int(part.sum()) for part in self.owns.split(self.level_sizes)]
        return Matches(self.image[kept], self.point[kept], self.box[kept], self.owns[kept], sizes)

    def dense(self, num_images: int, num_points: int) -> Tensor:
        """(N, P) index of the box that each location learns, -1 for background."""
        result = self.box.new_full((num_images * num_points,), -1)
        owned = torch.where(self.owns, self.box, -1)
        result.scatter_reduce_(0, self.image * num_points + self.point, owned, "amax")
        return result.view(num_images, num_points)


def assign_boxes(
    locations: Locations,
    ranges: Sequence[tuple[float, float]],
    boxes: Sequence[Tensor],
    *,
    center_radius: float | None = 1.5,
    plus_one_area: bool = False,
    exclusive_ranges: bool = False,
) -> Matches:
    """Match the locations of a batch to its boxes, by the rule of :func:`assign_image`.

    Args:
        locations: shared by the images.
        ranges: L pairs of the lowest and highest ``max(l, t, r, b)`` in pixels.
        boxes: N tensors (M_i, 4) x1, y1, x2, y2 in pixels; any of them may be empty.
        center_radius, plus_one_area, exclusive_ranges: as there. Without a radius all locations
            are looked at, in bounded memory.
    """
    if center_radius is None:
        return _all_locations(locations, ranges, boxes, plus_one_area, exclusive_ranges)
    together = torch.cat(list(boxes))
    image = torch.cat([b.new_full((len(b),), i, dtype=torch.int64) for i, b in enumerate(boxes)])
    count, num_points = len(together), len(locations.points)
    numbers = torch.arange(count, device=together.device)
    levels, start = [], 0
    for grid, bounds in zip(locations.grids, ranges, strict=True):
        cell, may_own = _center_cells(grid, bounds, together, center_radius, exclusive_ranges)
        box = numbers[:, None].expand_as(cell)
        levels.append(
            (image[box].flatten(), (cell + start).flatten(), box.flatten(), may_own.flatten())
        )
        start += grid.height * grid.width
    sizes = [len(pairs) for pairs, *_ in levels]
    image, point, box, may = (torch.cat(parts) for parts in zip(*levels))
    # Where several boxes may own a location, the one of the lowest rank does.
    rank = torch.empty_like(numbers)
    rank[_smallest_first(together, plus_one_area)] = numbers
    pair_rank = torch.where(may, rank[box], count)
    location = image * num_points + point
    lowest = pair_rank.new_full((len(boxes) * num_points,), count)
    lowest.scatter_reduce_(0, location, pair_rank, "amin")
    return Matches(image, point, box, may & (lowest[location] == pair_rank), sizes)


def _center_cells(
    grid: Grid, bounds: tuple[float, float], boxes: Tensor, radius: float, exclusive: bool
) -> tuple[Tensor, Tensor]:
    """Cells of one level within the radius of each centre.

    Returns:
        (M, K) index of the cell in its map, and (M, K) whether the box may own it.
    """
    column, inside_x, farthest_x = _center_lines(grid, 0, boxes, radius)
    row, inside_y, farthest_y = _center_lines(grid, 1, boxes, radius)
    farthest = torch.maximum(farthest_x[:, None, :], farthest_y[:, :, None])
    low, high = bounds
    in_range = (farthest > low) & (farthest < high)
    if not exclusive:
        in_range = (farthest >= low) & (farthest <= high)
    may_own = in_range & inside_x[:, None, :] & inside_y[:, :, None]
    cell = row[:, :, None] * grid.width + column[:, None, :]
    return cell.flatten(1), may_own.flatten(1)


def _center_lines(
    grid: Grid, axis: int, boxes: Tensor, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns (axis 0) or rows (axis 1) of a level within the radius of each centre.

    Returns:
        (M, S) index, kept inside the map; whether the line lies in the box, the radius and the
        map; and the larger of the distances from it to the two sides of the box.
    """
    length, step = ((grid.width, grid.step_x), (grid.height, grid.step_y))[axis]
    first_side, last_side = boxes[:, axis, None], boxes[:, axis + 2, None]
    center = (first_side + last_side) / 2
    reach = (torch.tensor(float(grid.stride)) * radius).item()  # float32, as in the dense rule
    low, high = center - reach, center + reach
    # An open interval of 2 * reach holds no more lines than this.
    count = math.ceil(2 * radius * grid.stride / step)
    before = torch.floor((_exact(low) - grid.shift) / step)
    index = before.clamp(-count - 1, length).long() + torch.arange(
        1, count + 1, device=boxes.device
    )
    place = index.to(boxes.dtype) * step + grid.shift
    inside = (place > torch.maximum(low, first_side)) & (place < torch.minimum(high, last_side))
    inside &= (index >= 0) & (index < length)
    farthest = torch.maximum(place - first_side, last_side - place)
    return index.clamp(0, length - 1), inside, farthest


def _all_locations(
    locations: Locations,
    ranges: Sequence[tuple[float, float]],
    boxes: Sequence[Tensor],
    plus_one_area: bool,
    exclusive_ranges: bool,
) -> Matches:
    """Matches of whole boxes: a pair for every location, or none if there is no box."""
    if not sum(len(b) for b in boxes):
        nothing = locations.points.new_zeros(0, dtype=torch.int64)
        sizes = [0] * len(locations.grids)
        return Matches(nothing, nothing, nothing, nothing.bool(), sizes)
    levels = list(zip(ranges, locations.level_sizes, strict=True))
    low = torch.cat([locations.points.new_full((n,), low) for (low, _), n in levels])
    high = torch.cat([locations.points.new_full((n,), high) for (_, high), n in levels])
    bounds = torch.stack((low, high), dim=1)
    matched, before = [], 0
    for each in boxes:
        index = assign_image(
            locations.points,
            locations.strides,
            bounds,
            each,
            center_radius=None,
            plus_one_area=plus_one_area,
            exclusive_ranges=exclusive_ranges,
        )
        matched.append(torch.where(index < 0, index, index + before))
        before += len(each)
    box = torch.stack(matched)
    image, point = (
        x.expand_as(box)
        for x in (
            torch.arange(len(box), device=box.device)[:, None],
            torch.arange(box.shape[1], device=box.device),
        )
    )
    image, point, box = (
        torch.cat([part.flatten() for part in x.split(locations.level_sizes, dim=1)])
        for x in (image, point, box)
    )
    pairs = [len(boxes) * n for n in locations.level_sizes]
    return Matches(image, point, box.clamp(min=0), box >= 0, pairs)


def _smallest_first(boxes: Tensor, plus_one: bool) -> Tensor:
    """Indices of the boxes by increasing area, equal areas in the order given."""
    exact = _exact(boxes)  # float32 does not keep the areas of huge boxes apart
    sides = exact[:, 2:] - exact[:, :2] + (1 if plus_one else 0)
    return torch.argsort(sides.prod(dim=1), stable=True)


def _exact(x: Tensor) -> Tensor:
    """In float64; only Apple's GPUs lack it."""
    return x if x.device.type == "mps" else x.double()


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
