"""Boxes that an FCOS model can learn at its input size."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import yaml
from detectron2.data.transforms import ResizeShortestEdge

from ...config import get_cfg, get_config_file
from ...modeling.assigners.center import assign_image
from ...modeling.locations import make_locations, size_ranges

__all__ = ["InputRule", "boxes_without_positive", "input_rule", "resize_scale"]

# detectron2's FPNs pad images to multiples of the stride of their coarsest input, which is 32 for
# all backbones of this project. A constant, because building a backbone here would take seconds.
_SIZE_DIVISIBILITY = 32


@dataclass(frozen=True)
class InputRule:
    """Resizing of images and assignment of boxes to locations.

    Attributes:
        min_size: shorter side of a resized image in pixels; 0 keeps the size.
        max_size: largest longer side of a resized image in pixels.
        strides: strides of the levels, fine to coarse.
        sizes_of_interest: see :func:`~fcos_d2.modeling.locations.size_ranges`.
        center_radius, plus_one_area, exclusive_ranges: arguments of
            :func:`~fcos_d2.modeling.assigners.center.assign_image`.
        grid_locations: see :class:`~fcos_d2.modeling.compat.Compat`.
    """

    min_size: int = 800
    max_size: int = 1333
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes_of_interest: tuple[float, ...] = (64, 128, 256, 512)
    center_radius: float | None = 1.5
    plus_one_area: bool = False
    exclusive_ranges: bool = False
    grid_locations: bool = False

    def resized(self, width: float, height: float) -> tuple[int, int]:
        """Width and height after detectron2's ``ResizeShortestEdge``."""
        if self.min_size == 0:
            return int(width), int(height)
        shape = ResizeShortestEdge.get_output_shape(height, width, self.min_size, self.max_size)
        return max(shape[1], 1), max(shape[0], 1)


def input_rule(
    config: str = "fcos_R_50_FPN_1x.yaml", *, min_size: int | None = None, max_size=None
) -> InputRule:
    """Read the rule from a config, with the sizes of test images.

    Args:
        config: a name or path for :func:`~fcos_d2.config.get_config_file`.
        min_size: value that replaces INPUT.MIN_SIZE_TEST, in pixels.
        max_size: value that replaces INPUT.MAX_SIZE_TEST, in pixels.

    Raises:
        FileNotFoundError: for an unknown config.
        KeyError: for an unknown key in the config.
        ValueError: for a malformed config or impossible values.
    """
    cfg = get_cfg()
    path = get_config_file(config)
    try:
        cfg.merge_from_file(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    fcos, compat = cfg.MODEL.FCOS, cfg.MODEL.FCOS.COMPAT
    min_size = cfg.INPUT.MIN_SIZE_TEST if min_size is None else min_size
    max_size = cfg.INPUT.MAX_SIZE_TEST if max_size is None else max_size
    if min_size < 0 or max_size < max(min_size, 1):
        raise ValueError(f"expected 0 <= min size <= max size, got {min_size} and {max_size}")
    size_ranges(fcos.SIZES_OF_INTEREST, len(fcos.IN_FEATURES))  # raises for values that do not fit
    return InputRule(
        min_size=min_size,
        max_size=max_size,
        strides=tuple(map(_stride, fcos.IN_FEATURES)),
        sizes_of_interest=tuple(fcos.SIZES_OF_INTEREST),
        center_radius=fcos.POS_RADIUS if fcos.CENTER_SAMPLE else None,
        plus_one_area=compat.ONE_PIXEL_BOXES,
        exclusive_ranges=compat.EXCLUSIVE_RANGES,
        grid_locations=compat.GRID_LOCATIONS,
    )


def _stride(feature: str) -> int:
    if not (feature[0] == "p" and feature[1:].isdecimal()):
        raise ValueError(
            f"the stride of MODEL.FCOS.IN_FEATURES {feature!r} is unknown: expected p3, ..."
        )
    return 2 ** int(feature[1:])  # detectron2's FPN names features p<log2 of the stride>


@lru_cache(maxsize=4096)
def resize_scale(rule: InputRule, width: float, height: float) -> tuple[float, float]:
    """Factors by which resizing multiplies the width and the height of an image."""
    new_width, new_height = rule.resized(width, height)
    return new_width / width, new_height / height


def boxes_without_positive(
    boxes: torch.Tensor, size: tuple[int, int], rule: InputRule
) -> list[int]:
    """Find boxes that are assigned to no location, so that training ignores them.

    Args:
        boxes: (M, 4) x1, y1, x2, y2 in pixels of the image before resizing.
        size: width and height of the image in pixels.
        rule: resizing and assignment.

    Returns:
        Indices of the boxes, ascending.
    """
    limit = torch.tensor([*size, *size], dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    boxes = (boxes * torch.tensor(resize_scale(rule, *size) * 2, dtype=boxes.dtype)).float()
    points, strides, ranges = _locations(rule, *rule.resized(*size))
    assigned = assign_image(
        points,
        strides,
        ranges,
        boxes,
        center_radius=rule.center_radius,
        plus_one_area=rule.plus_one_area,
        exclusive_ranges=rule.exclusive_ranges,
    )
    return sorted(set(range(len(boxes))) - set(assigned.unique().tolist()))


def _locations(rule: InputRule, width: int, height: int):
    """Points, strides and size ranges of all locations of a padded image."""
    divisor = _SIZE_DIVISIBILITY
    padded = [-(-side // divisor) * divisor for side in (height, width)]
    return _padded_locations(rule, *padded)


@lru_cache(maxsize=64)
def _padded_locations(rule: InputRule, height: int, width: int):
    shapes = [(-(-height // stride), -(-width // stride)) for stride in rule.strides]
    divide = (height, width) if rule.grid_locations else None
    locations = make_locations(shapes, rule.strides, divide=divide)
    ranges = torch.tensor(size_ranges(rule.sizes_of_interest, len(rule.strides)))
    ranges = ranges.repeat_interleave(torch.tensor(locations.level_sizes), dim=0)
    return locations.points, locations.strides, ranges
