"""Calls of the parts of a model with plain tensors and instances."""

import torch

from fcos_d2.modeling.box_coder import ltrb_distances
from fcos_d2.modeling.build import with_conventions
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.ground_truth import GroundTruth
from fcos_d2.modeling.head import Predictions
from fcos_d2.modeling.postprocess import detect_images
from support.models import GivenDistances, maps


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
