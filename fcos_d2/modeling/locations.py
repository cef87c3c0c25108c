"""Positions in the image of the predictions of each feature map (FCOS paper, section 3.1).

Shape letters in ``fcos_d2.modeling``: N images, L levels, P locations of all levels together (fine
to coarse, each level row by row), M boxes, K pairs or candidates, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Grid", "LocationGenerator", "Locations", "make_locations", "size_ranges"]


class Grid(NamedTuple):
    """The locations of one level: ``x = shift + j * step_x``, ``y = shift + i * step_y``.

    Attributes:
        height, width: size of the feature map.
        stride, step_y, step_x, shift: lengths in pixels.
    """

    height: int
    width: int
    stride: int
    step_y: int
    step_x: int
    shift: int


@dataclass
class Locations:
    """All locations of a padded batch, levels concatenated from fine to coarse.

    Attributes:
        points: (P, 2) x, y in pixels of the network's input.
        strides: (P,) stride of each location's level, in pixels.
        grids: rule of each level that gives the same points.
    """

    points: Tensor
    strides: Tensor
    grids: list[Grid]

    @property
    def level_sizes(self) -> list[int]:
        """Number of locations of each level; their sum is P."""
        return [grid.height * grid.width for grid in self.grids]


@dataclass(frozen=True)
class LocationGenerator:
    """Places the locations of feature maps.

    Attributes:
        strides: stride of each of the L levels, in pixels.
        even_grid: torchvision's rule: a location is the upper left corner of its cell, and the
            cells of a level divide the padded image evenly, rounded down. Otherwise a location is
            the center of its cell, and cells are one stride long.
    """

    strides: Sequence[int]
    even_grid: bool = False

    def __call__(
        self,
        shapes: Sequence[Sequence[int]],
        padded_size: Sequence[int],
        device: torch.device | str | None = None,
    ) -> Locations:
        """Locations of feature maps with these (height, width), of images padded to this size."""
        divide = padded_size if self.even_grid else None
        return make_locations(shapes, self.strides, device, divide=divide)

    def shapes(self, padded_size: Sequence[int]) -> list[tuple[int, int]]:
        """(height, width) of the feature map of each level."""
        height, width = padded_size
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]


def make_locations(
    shapes: Sequence[Sequence[int]],
    strides: Sequence[int],
    device: torch.device | str | None = None,
    *,
    divide: Sequence[int] | None = None,
) -> Locations:
    """Place one location at the center of each feature-map cell: ``(j + 1/2, i + 1/2) * stride``.

    Args:
        shapes: (height, width) of each level's feature map.
        strides: stride of each level in pixels, same length.
        device: device of the returned tensors.
        divide: padded (height, width) for torchvision's rule; see :class:`LocationGenerator`.

    Raises:
        ValueError: if the two lists have different lengths.
    """
    if len(shapes) != len(strides):
        raise ValueError(f"{len(shapes)} feature-map shapes but {len(strides)} strides")
    grids = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        # stride // 2 is the published rule and differs from stride / 2 only for a stride of 1.
        step_y, step_x, shift = stride, stride, stride // 2
        if divide is not None:
            step_y, step_x, shift = divide[0] // height, divide[1] // width, 0
        grids.append(Grid(height, width, stride, step_y, step_x, shift))
    points = [_grid_points(grid, device) for grid in grids]
    # shape[0], not len(): exporters follow a shape.
    per_location = [p.new_full((p.shape[0],), float(g.stride)) for p, g in zip(points, grids)]
    return Locations(torch.cat(points), torch.cat(per_location), grids)


def size_ranges(boundaries: Sequence[float], num_levels: int) -> list[tuple[float, float]]:
    """Range of ``max(l, t, r, b)`` that each level learns, in pixels.

    Args:
        boundaries: object-size boundaries between neighboring levels, in pixels (L - 1 values),
            such as (64, 128, 256, 512).
        num_levels: L.

    Returns:
        L pairs (low, high); the first starts at 0, the last ends at infinity.

    Raises:
        ValueError: if the number of boundaries is wrong or they do not increase.
    """
    boundaries = [float(b) for b in boundaries]
    if len(boundaries) != num_levels - 1:
        raise ValueError(
            f"MODEL.FCOS.SIZES_OF_INTEREST has {len(boundaries)} values {boundaries} but "
            f"{num_levels} feature levels need {num_levels - 1}: one boundary between two "
            "neighboring levels. Change it together with MODEL.FCOS.IN_FEATURES."
        )
    if any(b <= a for a, b in pairwise([0.0, *boundaries])):
        raise ValueError(
            f"MODEL.FCOS.SIZES_OF_INTEREST must be positive and increase, got {boundaries}"
        )
    return list(zip([0.0, *boundaries], [*boundaries, float("inf")], strict=True))


def _grid_points(grid: Grid, device: torch.device | str | None) -> Tensor:
    x = torch.arange(grid.width, dtype=torch.float32, device=device) * grid.step_x + grid.shift
    y = torch.arange(grid.height, dtype=torch.float32, device=device) * grid.step_y + grid.shift
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((xx, yy), dim=-1).reshape(-1, 2)
