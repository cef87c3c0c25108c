"""Small models, and the shapes of their predictions."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

STRIDES = [8, 16, 32, 64, 128]


class TinyBackbone(Backbone):
    """One convolution per level, each of the stride of its level."""

    def __init__(self, channels=32, strides=STRIDES):
        super().__init__()
        self.strides = {f"p{i}": s for i, s in enumerate(strides, start=3)}
        self.convs = nn.ModuleDict({k: nn.Conv2d(3, channels, 1) for k in self.strides})

    def forward(self, x):
        pool = nn.functional.avg_pool2d
        return {k: self.convs[k](pool(x, s)) for k, s in self.strides.items()}

    def output_shape(self):
        conv = self.convs
        return {k: ShapeSpec(conv[k].out_channels, stride=s) for k, s in self.strides.items()}

    @property
    def size_divisibility(self):
        return max(self.strides.values())


def level_shapes(height, width):
    """Heights and widths of p3..p7 of a padded image."""
    shapes = [(height // 8, width // 8)]
    while len(shapes) < 5:
        shapes.append(tuple((n + 1) // 2 for n in shapes[-1]))
    return shapes


def flat(maps):
    """L maps (N, K, h, w) -> (N, P, K)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
