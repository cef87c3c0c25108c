"""Reference numbers and small models for the tests."""

import functools
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

from fcos_d2.modeling.box_coder import BoxCoder, ltrb_distances
from fcos_d2.modeling.build import make_criterion, with_conventions
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.fcos import FCOS
from fcos_d2.modeling.ground_truth import GroundTruth
from fcos_d2.modeling.head import FCOSHead, Predictions
from fcos_d2.modeling.postprocess import PostprocessOptions, detect_images

GOLDEN = Path(__file__).parents[1] / "golden"
STRIDES = [8, 16, 32, 64, 128]


@functools.cache
def golden(name):
    """{case: {array name: tensor}} of a file that ``golden/pack.py`` wrote."""
    with np.load(GOLDEN / f"{name}.npz") as z:
        arrays = {k: torch.from_numpy(z[k]) for k in z.files if k != "index"}
        index = json.loads(str(z["index"]))
    return {case: {k: arrays[v] for k, v in named.items()} for case, named in index.items()}


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


class GivenDistances(BoxCoder):
    """The raw numbers are the distances, for reference numbers that start from distances."""

    def __init__(self, in_strides=False):
        self.in_strides = in_strides

    def distances(self, raw):
        return raw.float()

    def initial_bias(self, prior_distance):
        return 0.0


def fcos_from(backbone, head, compat=None, postprocess=None, model_options=None, **criterion):
    """An FCOS whose parts follow ``compat``; other options are those of ``make_criterion``."""
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


def ground_truth(boxes, classes, size=(256, 320)):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.as_tensor(classes, dtype=torch.int64)
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=classes)


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


def head_outputs(head, features):
    """Logits, ltrb distances in the unit of the box coder, and quality: L maps each."""
    logits, boxes, quality = head(features)
    distances = [head.box_coder.distances(x.movedim(1, -1)).movedim(-1, 1) for x in boxes]
    return logits, distances, quality


def as_truth(instances, ignore=None):
    """Instances of N images as assigners and losses read them."""
    return GroundTruth(
        boxes=torch.cat([x.gt_boxes.tensor for x in instances]),
        classes=torch.cat([x.gt_classes for x in instances]),
        counts=[len(x) for x in instances],
        ignore=ignore,
    )


def losses_of(model, logits, boxes, quality, locations, instances, ignore=None):
    """Losses of given predictions, L maps each."""
    predictions = Predictions(logits, boxes, quality, locations)
    criterion = model.criterion
    targets = criterion.targets(locations, as_truth(instances, ignore), predictions)
    normalizers = criterion.normalizers(targets, model.moving_num_fg)
    return criterion(predictions, targets, normalizers)


def matched_boxes(model, locations, instances):
    """(N, P) index of the matched box among the boxes of all images, -1 for background."""
    assignment = model.criterion.assigner(locations, as_truth(instances))
    return assignment.to_map(len(instances), len(locations.points))


def labels_and_targets(model, locations, instances):
    """(N, P) labels, the number of classes for background, and (N, P, 4) ltrb in pixels."""
    matched = matched_boxes(model, locations, instances)
    # The last row, which index -1 finds, stands for background.
    classes = torch.cat(
        [x.gt_classes for x in instances] + [torch.tensor([model.head.num_classes])]
    )
    boxes = torch.cat([x.gt_boxes.tensor for x in instances] + [torch.zeros(1, 4)])
    return classes[matched], ltrb_distances(locations.points, boxes[matched])


def detect_one(logits, distances, quality, locations, size, options, compat=None):
    """Detections of one image from (P, C) logits, (P, 4) pixels, (P,) quality logits."""
    given = (maps(x[None], locations) for x in (logits, distances, quality))
    options = with_conventions(options, compat or Compat())
    return detect_images(Predictions(*given, locations), [size], options, GivenDistances())[0]


def one_hot_focal_loss(logits, labels, alpha=0.25, gamma=2.0):
    """Focal loss of (..., C) logits and labels in [0, C], C for background: the obvious way."""
    positive = labels[..., None] == torch.arange(logits.shape[-1])
    p = torch.where(positive, logits, -logits).sigmoid()
    weight = torch.where(positive, alpha, 1 - alpha)
    return -(weight * (1 - p) ** gamma * p.log()).sum()


def error(actual, expected, scale=None):
    """Largest difference as a fraction of ``scale``, by default of the largest value expected."""
    actual, expected = actual.detach().double(), expected.double()
    assert actual.shape == expected.shape and actual.isfinite().all()
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().item() if scale is None else scale
    return (actual - expected).abs().max().item() / (scale or 1.0)


def check_same(found, boxes, scores, classes, pixels=0.01):
    """Every expected detection is found once, and nothing else is."""
    assert len(found) == len(boxes)
    assert found.scores.diff().le(0).all()
    ours = torch.cat((found.pred_boxes.tensor, found.scores[:, None]), 1)
    theirs = torch.cat((boxes, scores[:, None]), 1)
    tolerance = torch.cat(
        ((1e-5 * boxes.abs()).clamp(min=pixels), torch.full_like(boxes[:, :1], 1e-5)), 1
    )
    same = ((ours[:, None] - theirs[None]).abs() <= tolerance).all(2)
    same &= found.pred_classes[:, None] == classes[None]
    free = torch.ones(len(ours), dtype=torch.bool)
    for column in same.T:  # greedy: detections closer than the tolerance are interchangeable
        candidates = (column & free).nonzero()
        assert len(candidates), "an expected detection is missing"
        free[candidates[0]] = False
