"""Sizes that a backbone accepts."""

from detectron2.modeling import Backbone

__all__ = ["padded_size", "round_up", "size_divisibility"]


def size_divisibility(backbone: Backbone) -> int:
    """Divisor of the heights and widths that the backbone accepts; at least 1."""
    constraints = backbone.padding_constraints
    return max(constraints.get("size_divisibility", backbone.size_divisibility), 1)


def padded_size(backbone: Backbone, height: int, width: int) -> tuple[int, int]:
    """(height, width) to which detectron2's ``ImageList`` pads images up to this size."""
    square = backbone.padding_constraints.get("square_size", 0)
    if square > 0:
        height = width = square
    divisor = size_divisibility(backbone)
    return round_up(height, divisor), round_up(width, divisor)


def round_up(length: int, divisor: int) -> int:
    """Smallest multiple of ``divisor`` that is not below ``length``."""
    return -(-length // divisor) * divisor
