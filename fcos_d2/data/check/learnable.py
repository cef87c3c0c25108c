"""How images come to the network, and which boxes its locations then learn."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import yaml
from detectron2.data.transforms import ResizeShortestEdge

from ...config import get_cfg, get_config_file
from ...modeling.assigners.center import assign_image
from ...modeling.locations import make_locations, size_ranges

__all__ = ["InputRule", "input_rule", "resize_scale", "unowned_boxes"]


@dataclass(frozen=True)
class InputRule:
    """How images come to the network, and which of its locations learn which boxes.

    Attributes:
        min_size: of the shorter side in pixels; 0 leaves the size as it is.
        max_size: of the longer side in pixels.
        strides: of the levels, fine to coarse.
        sizes_of_interest: see :func:`~fcos_d2.modeling.locations.size_ranges`.
        center_radius, plus_one_area, exclusive_ranges: of ``assign_image``.
        grid_locations: see :class:`~fcos_d2.modeling.compat.Compat`.
        divisor: image sides are padded to its multiples.
    """

    min_size: int = 800
    max_size: int = 1333
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes_of_interest: tuple[float, ...] = (64, 128, 256, 512)
    center_radius: float | None = 1.5
    plus_one_area: bool = False
    exclusive_ranges: bool = False
    grid_locations: bool = False
    divisor: int = 32

    def resized(self, width: float, height: float) -> tuple[int, int]:
        """Width and height after detectron2's ``ResizeShortestEdge``."""
        if self.min_size == 0:
            return int(width), int(height)
        shape = ResizeShortestEdge.get_output_shape(height, width, self.min_size, self.max_size)
        return max(shape[1], 1), max(shape[0], 1)


def input_rule(
    config: str = "fcos_R_50_FPN_1x.yaml", *, min_size: int | None = None, max_size=None
) -> InputRule:
    """The rule of a config's test images.

    Args:
        config: as :func:`~fcos_d2.model_zoo.get_config_file` takes it.
        min_size: instead of INPUT.MIN_SIZE_TEST, in pixels.
        max_size: instead of INPUT.MAX_SIZE_TEST, in pixels.

    Raises:
        FileNotFoundError: for an unknown config.
        KeyError, ValueError: for a config that cannot be read, or impossible values.
    """
    cfg = get_cfg()
    path = get_config_file(config)
    try:
        cfg.merge_from_file(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    fcos, compat = cfg.MODEL.FCOS, cfg.MODEL.FCOS.COMPAT
    min_size = cfg.INPUT.MIN_SIZE_TEST if min_size is None else min_size
    max_size = cfg.INPUT.MAX_SIZE_TEST if max_size is None else max_size
    if min_size < 0 or max_size < max(min_size, 1):
        raise ValueError(f"expected 0 <= min size <= max size, got {min_size} and {max_size}")
    size_ranges(fcos.SIZES_OF_INTEREST, len(fcos.IN_FEATURES))  # explains what does not fit
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
        raise ValueError(f"the stride of MODEL.FCOS.IN_FEATURES {feature!r} is unknown: no p3, ...")
    return 2 ** int(feature[1:])  # as detectron2's FPN names them


@lru_cache(maxsize=4096)
def resize_scale(rule: InputRule, width: float, height: float) -> tuple[float, float]:
    """By how much the width and the height of an image grow."""
    new_width, new_height = rule.resized(width, height)
    return new_width / width, new_height / height


def unowned_boxes(boxes: torch.Tensor, size: tuple[int, int], rule: InputRule) -> list[int]:
    """Indices of boxes, (M, 4) x1, y1, x2, y2 in pixels of the image, that no location learns."""
    limit = torch.tensor([*size, *size], dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    boxes = (boxes * torch.tensor(resize_scale(rule, *size) * 2, dtype=boxes.dtype)).float()
    points, strides, ranges = _locations(rule, *rule.resized(*size))
    matched = assign_image(
        points,
        strides,
        ranges,
        boxes,
        center_radius=rule.center_radius,
        plus_one_area=rule.plus_one_area,
        exclusive_ranges=rule.exclusive_ranges,
    )
    return sorted(set(range(len(boxes))) - set(matched.unique().tolist()))


def _locations(rule: InputRule, width: int, height: int):
    """Points, strides and size ranges of all locations of an image that is padded first."""
    padded = [-(-side // rule.divisor) * rule.divisor for side in (height, width)]
    return _padded_locations(rule, *padded)


@lru_cache(maxsize=64)
def _padded_locations(rule: InputRule, height: int, width: int):
    shapes = [(-(-height // stride), -(-width // stride)) for stride in rule.strides]
    divide = (height, width) if rule.grid_locations else None
    locations = make_locations(shapes, rule.strides, divide=divide)
    ranges = torch.tensor(size_ranges(rule.sizes_of_interest, len(rule.strides)))
    ranges = ranges.repeat_interleave(torch.tensor(locations.level_sizes), dim=0)
    return locations.points, locations.strides, ranges
