"""From the raw numbers of the head to ltrb distances and boxes, and from boxes to targets.

Head, criterion, post-processing and export ask the box coder; nothing else knows a representation.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

__all__ = ["BOX_CODERS", "BoxCoder", "LtrbExp", "LtrbRelu", "decode_boxes", "ltrb_distances"]

# exp of this is about 1e6 pixels: no image is larger, and nothing that follows overflows.
_MAX_LOG_DISTANCE = math.log(1e6)


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


def decode_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes around points.

    Args:
        points: (..., 2) x, y in pixels.
        distances: (..., 4) left, top, right, bottom in pixels.

    Returns:
        (..., 4) x1, y1, x2, y2 in pixels.
    """
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


class BoxCoder(ABC):
    """One way to represent a box by numbers at a location.

    Attributes:
        num_channels: raw numbers at each location.
        in_strides: distances are in strides of their level; otherwise in pixels.
    """

    num_channels = 4
    in_strides = False

    @abstractmethod
    def distances(self, raw: Tensor) -> Tensor:
        """(..., num_channels) raw numbers -> (..., 4) ltrb distances, not negative, float32."""

    @abstractmethod
    def initial_bias(self, prior_distance: float) -> float:
        """Raw number at which an untrained head predicts ``prior_distance`` strides."""

    def pixel_distances(self, raw: Tensor, strides: Tensor | float) -> Tensor:
        """(..., 4) ltrb distances in pixels; ``strides`` broadcasts against ``raw``."""
        distances = self.distances(raw)
        return distances * strides if self.in_strides else distances

    def decode(self, raw: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """Boxes predicted at locations.

        Args:
            raw: (K, num_channels) raw numbers.
            points: (K, 2) x, y in pixels.
            strides: (K,) stride of the level of each location, in pixels.

        Returns:
            (K, 4) x1, y1, x2, y2 in pixels.
        """
        return decode_boxes(points, self.pixel_distances(raw, strides[:, None]))

    def encode(self, boxes: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """(K, 4) target distances in the unit of :meth:`distances`; arguments as in `decode`."""
        targets = ltrb_distances(points, boxes)
        return targets / strides[:, None] if self.in_strides else targets


class LtrbRelu(BoxCoder):
    """Distances in strides through a ReLU (arXiv 2006.09214)."""

    in_strides = True

    def distances(self, raw: Tensor) -> Tensor:
        return raw.float().relu()

    def initial_bias(self, prior_distance: float) -> float:
        return prior_distance


class LtrbExp(BoxCoder):
    """Distances in pixels through an exponential (arXiv 1904.01355)."""

    def distances(self, raw: Tensor) -> Tensor:
        return raw.float().clamp(max=_MAX_LOG_DISTANCE).exp()

    def initial_bias(self, prior_distance: float) -> float:
        return 0.0  # one pixel on every level, as published


# MODEL.FCOS.BOX_REPRESENTATION -> class.
BOX_CODERS: dict[str, type[BoxCoder]] = {"ltrb_relu": LtrbRelu, "ltrb_exp": LtrbExp}
