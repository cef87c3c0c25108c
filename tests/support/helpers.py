"""Calls of the parts of a model with plain tensors.

The other names are re-exports from ``compare``, ``golden``, ``inputs`` and ``models``.
"""

import torch

from fcos_d2.modeling.assigners.center import ltrb_distances
from fcos_d2.modeling.fcos import FCOS
from fcos_d2.modeling.head import FCOSHead
from fcos_d2.modeling.postprocess import detect_images
from support.compare import check_same, error
from support.golden import golden
from support.inputs import ground_truth
from support.models import STRIDES, TinyBackbone, flat, level_shapes

__all__ = [
    "STRIDES",
    "TinyBackbone",
    "check_same",
    "detect_one",
    "error",
    "flat",
    "golden",
    "ground_truth",
    "labels_and_targets",
    "level_shapes",
    "maps",
    "matched_boxes",
    "one_hot_focal_loss",
    "tiny_fcos",
]


def tiny_fcos(num_classes=6, head=None, **options):
    head = {"num_cls_convs": 1, "num_box_convs": 1, **(head or {})}
    return FCOS(
        backbone=TinyBackbone(),
        head=FCOSHead(in_channels=32, num_levels=5, num_classes=num_classes, **head),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[50.0, 50.0, 50.0],
        **options,
    )


def maps(values, locations):
    """(N, P, K) or (N, P) -> L maps (N, K, h, w); the inverse of :func:`flat`."""
    values = values if values.ndim == 3 else values[..., None]
    parts = values.split(locations.level_sizes, dim=1)
    return [
        part.transpose(1, 2).unflatten(2, (grid.height, grid.width))
        for part, grid in zip(parts, locations.grids)
    ]


def matched_boxes(model, locations, instances):
    """(N, P) index of the matched box among the boxes of all images, -1 for background."""
    matches = model.assign(locations, instances)
    return matches.dense(len(instances), len(locations.points))


def labels_and_targets(model, locations, instances):
    """(N, P) labels, the number of classes for background, and (N, P, 4) ltrb in pixels."""
    matched = matched_boxes(model, locations, instances)
    # The last row, which index -1 finds, stands for background.
    classes = torch.cat(
        [x.gt_classes for x in instances] + [torch.tensor([model.head.num_classes])]
    )
    boxes = torch.cat([x.gt_boxes.tensor for x in instances] + [torch.zeros(1, 4)])
    return classes[matched], ltrb_distances(locations.points, boxes[matched])


def detect_one(logits, distances, quality, locations, size, options, compat):
    """Detections of one image from (P, C) logits, (P, 4) pixels, (P,) quality logits."""
    return detect_images(
        maps(logits[None], locations), distances[None], quality[None], locations, [size], options,
        compat,
    )[0]  # fmt: skip


def one_hot_focal_loss(logits, labels, alpha=0.25, gamma=2.0):
    """Focal loss of (..., C) logits and labels in [0, C], C for background: the obvious way."""
    positive = labels[..., None] == torch.arange(logits.shape[-1])
    p = torch.where(positive, logits, -logits).sigmoid()
    weight = torch.where(positive, alpha, 1 - alpha)
    return -(weight * (1 - p) ** gamma * p.log()).sum()
