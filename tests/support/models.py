"""Small models, and the shapes of their predictions."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

from fcos_d2.modeling.box_coder import BoxCoder
from fcos_d2.modeling.build import make_criterion, with_conventions
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.fcos import FCOS
from fcos_d2.modeling.head import FCOSHead
from fcos_d2.modeling.postprocess import PostprocessOptions

STRIDES = [8, 16, 32, 64, 128]


class TinyBackbone(Backbone):
    """One convolution per level, behind an average pooling with the stride of the level."""

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


class GivenDistances(BoxCoder):
    """Box coder for reference numbers that are distances already."""

    def __init__(self, in_strides=False):
        self.in_strides = in_strides

    def distances(self, raw):
        return raw.float()

    def initial_bias(self, prior_distance):
        return 0.0


def fcos_from(backbone, head, compat=None, postprocess=None, model_options=None, **criterion):
    """Build an FCOS that follows ``compat``; other options go to ``make_criterion``."""
    compat = compat or Compat()
    return FCOS(
        backbone=backbone,
        head=head,
        criterion=make_criterion(head.num_levels, head.box_coder, compat=compat, **criterion),
        even_grid=compat.grid_locations,
        postprocess=with_conventions(postprocess or PostprocessOptions(), compat),
        **(model_options or {}),
    )


def tiny_fcos(num_classes=6, head=None, pixel_mean=(0.0, 0.0, 0.0), **options):
    head = {"num_cls_convs": 1, "num_box_convs": 1, **(head or {})}
    names = (
        "in_features",
        "vis_period",
        "memory_format",
        "fold_norms",
        "compile_mode",
        "input_format",
    )
    model_options = {name: options.pop(name) for name in names if name in options}
    return fcos_from(
        TinyBackbone(),
        FCOSHead(in_channels=32, num_levels=5, num_classes=num_classes, **head),
        model_options={"pixel_mean": pixel_mean, "pixel_std": [50.0] * 3, **model_options},
        **options,
    )


def level_shapes(height, width):
    """Heights and widths of p3..p7 of a padded image."""
    shapes = [(height // 8, width // 8)]
    while len(shapes) < 5:
        shapes.append(tuple((n + 1) // 2 for n in shapes[-1]))
    return shapes


def flat(maps):
    """L maps (N, K, h, w) -> (N, P, K)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def maps(values, locations):
    """(N, P, K) or (N, P) -> L maps (N, K, h, w); the inverse of :func:`flat`."""
    values = values if values.ndim == 3 else values[..., None]
    parts = values.split(locations.level_sizes, dim=1)
    return [
        part.transpose(1, 2).unflatten(2, (grid.height, grid.width))
        for part, grid in zip(parts, locations.grids)
    ]
