"""Boxes that an FCOS model can learn at its input size."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import yaml
from detectron2.data.transforms import ResizeShortestEdge

from ...config import get_cfg, get_config_file
from ...modeling.assigners import Assigner, CenterAssigner
from ...modeling.build import build_box_coder, build_criterion
from ...modeling.ground_truth import GroundTruth
from ...modeling.locations import LocationGenerator, Locations, size_ranges

__all__ = ["InputRule", "boxes_without_positive", "input_rule", "resize_scale"]

# detectron2's FPNs pad images to multiples of the stride of their coarsest input, which is 32 for
# all backbones of this project. A constant, because building a backbone here would take seconds.
_SIZE_DIVISIBILITY = 32


# The published P3 to P7.
_LOCATIONS = LocationGenerator((8, 16, 32, 64, 128))
_ASSIGNER = CenterAssigner(size_ranges((64, 128, 256, 512), 5))


@dataclass(frozen=True)
class InputRule:
    """Resizing of images and assignment of boxes to locations.

    Attributes:
        min_size: shorter side of a resized image in pixels; 0 keeps the size.
        max_size: largest longer side of a resized image in pixels.
        locations: places the locations of the levels.
        assigner: assigns them to boxes; must not need predictions.
    """

    min_size: int = 800
    max_size: int = 1333
    locations: LocationGenerator = _LOCATIONS
    assigner: Assigner = _ASSIGNER

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
    options = cfg.MODEL.FCOS
    min_size = cfg.INPUT.MIN_SIZE_TEST if min_size is None else min_size
    max_size = cfg.INPUT.MAX_SIZE_TEST if max_size is None else max_size
    if min_size < 0 or max_size < max(min_size, 1):
        raise ValueError(f"expected 0 <= min size <= max size, got {min_size} and {max_size}")
    strides = tuple(map(_stride, options.IN_FEATURES))
    return InputRule(
        min_size=min_size,
        max_size=max_size,
        locations=LocationGenerator(strides, even_grid=options.COMPAT.GRID_LOCATIONS),
        assigner=build_criterion(options, len(strides), build_box_coder(options)).assigner,
    )


def _stride(feature: str) -> int:
    if not (feature[0] == "p" and feature[1:].isdecimal()):
        raise ValueError(
            f"the stride of MODEL.FCOS.IN_FEATURES {feature!r} is unknown: expected p3, ..."
        )
    return 2 ** int(feature[1:])  # detectron2's FPN names features p<log2 of the stride>


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
    locations = _padded_locations(rule.locations, *rule.resized(*size))
    classes = torch.zeros(len(boxes), dtype=torch.int64)
    assignment = rule.assigner(locations, GroundTruth(boxes, classes, [len(boxes)]), None)
    learned = assignment.compact().box_index
    return sorted(set(range(len(boxes))) - set(learned.unique().tolist()))


@lru_cache(maxsize=64)
def _padded_locations(generator: LocationGenerator, width: int, height: int) -> Locations:
    divisor = _SIZE_DIVISIBILITY
    padded = (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
    return generator(generator.shapes(padded), padded)
