"""From dense predictions to detections (FCOS paper, section 3.1, "Inference").

The order is AdelaiDet's: threshold, per-level top-k, decoding, per-class NMS over all levels, the
best detections. Clipping to the image and rescaling to its original size come last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from ..utils.device import to_device
from .compat import Compat
from .locations import Locations
from .nms import suppress

__all__ = ["PostprocessOptions", "decode_boxes", "detect_images", "rescale_detections"]

DEFAULT_COMPAT = Compat()


@dataclass(frozen=True)
class PostprocessOptions:
    """What turns scores into detections; the config key of each is in brackets.

    Attributes:
        score_threshold: lowest candidate probability [INFERENCE_TH].
        threshold_with_centerness: compare class x centerness probability with the threshold
            instead of the class probability alone [THRESH_WITH_CTR].
        topk_per_level: candidates kept of each level [PRE_NMS_TOPK].
        nms_threshold: IoU above which the lower of two boxes of a class goes [NMS_TH].
        max_detections: of one image; negative for all [POST_NMS_TOPK].
        nms_type: see :func:`~fcos_d2.modeling.nms.suppress` [NMS_TYPE].
        soft_nms_sigma: of Gaussian soft-NMS [SOFT_NMS_SIGMA].
    """

    score_threshold: float = 0.05
    threshold_with_centerness: bool = False
    topk_per_level: int = 1000
    nms_threshold: float = 0.6
    max_detections: int = 100
    nms_type: str = "per_class"
    soft_nms_sigma: float = 0.5


def decode_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Boxes around points.

    Args:
        points: (..., 2) x, y in pixels.
        distances: (..., 4) left, top, right, bottom in pixels.

    Returns:
        (..., 4) x1, y1, x2, y2 in pixels.
    """
    return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def detect_images(
    logits: Sequence[Tensor],
    distances: Tensor,
    quality: Tensor,
    locations: Locations,
    image_sizes: Sequence[tuple[int, int]],
    options: PostprocessOptions,
    compat: Compat = DEFAULT_COMPAT,
) -> list[Instances]:
    """Detections of each image, in pixels of the network's input and best first.

    Args:
        logits: L maps (N, C, H_l, W_l) of class logits.
        distances: (N, P, 4) ltrb in pixels, not negative.
        quality: (N, P) centerness (or IoU) logits.
        locations: the P locations.
        image_sizes: N times (height, width) of the image without padding.
        options: see :class:`PostprocessOptions`.
        compat: see :class:`Compat`.

    Returns:
        N Instances with ``pred_boxes``, ``scores`` (sqrt of class x centerness probability),
        ``pred_classes`` and ``locations`` (K, 2). Boxes may leave the image;
        :func:`rescale_detections` clips them.
    """
    image, point, classes, scores = _candidates(
        logits, distances, quality, locations, options, compat
    )
    if not compat.product_scores:
        scores = scores.sqrt()
    points = locations.points[point]
    boxes = decode_boxes(points, distances[image, point].float())
    counts = image.bincount(minlength=len(image_sizes)).tolist()
    parts = zip(*(x.split(counts) for x in (boxes, scores, classes, points)))
    return [
        _choose(*part, size, options, compat) for part, size in zip(parts, image_sizes, strict=True)
    ]


def _candidates(
    logits: Sequence[Tensor],
    distances: Tensor,
    quality: Tensor,
    locations: Locations,
    options: PostprocessOptions,
    compat: Compat,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(K,) image, point, class and product score above the threshold, at most top-k of each level.

    Ordered by image. Few locations have a class that could pass, so scores are computed of no
    others.
    """
    lowest = _lowest_logit(options, compat)
    level, image, point, rows = _promising(logits, lowest)
    row, classes = (rows > lowest).nonzero().unbind(1)
    class_scores = rows[row, classes].float().sigmoid()
    # NaN or infinite predictions, of a model that diverges, are no candidates.
    quality = quality[image, point].float().sigmoid()
    quality = quality.where(distances[image, point].isfinite().all(dim=1), math.nan)
    scores = class_scores * quality[row]
    tested = scores if options.threshold_with_centerness else class_scores
    if compat.root_score_threshold:
        tested = scores.sqrt()
    passed = ((tested > options.score_threshold) & ~scores.isnan()).nonzero().squeeze(1)
    row, classes, scores = row[passed], classes[passed], scores[passed]
    ranked = class_scores[passed] if compat.topk_by_class_score else scores
    groups = level * len(distances) + image
    counts = groups[row].bincount(minlength=len(logits) * len(distances)).tolist()
    chosen = _best_of_groups(ranked, counts, options.topk_per_level)
    chosen = chosen[image[row[chosen]].argsort(stable=True)]
    row = row[chosen]
    return image[row], point[row], classes[chosen], scores[chosen]


def _lowest_logit(options: PostprocessOptions, compat: Compat) -> float:
    """Class logits below this fail every threshold, as no quality is above 1."""
    lowest = options.score_threshold ** (2 if compat.root_score_threshold else 1)
    if lowest <= 0:
        return -math.inf
    return math.log(lowest / (1 - lowest)) - 1e-3 if lowest < 1 else math.inf


def _promising(logits: Sequence[Tensor], lowest: float) -> tuple[Tensor, ...]:
    """(R,) level, image and point of locations with a logit above ``lowest``, their (R, C) logits.

    Ordered by level, then image, then point.
    """
    best = [level.amax(dim=1).flatten() for level in logits]
    index = (torch.cat(best) > lowest).nonzero().squeeze(1)
    ends = to_device(torch.tensor([len(x) for x in best]).cumsum(0), index.device)
    level = torch.bucketize(index, ends, right=True)
    counts = level.bincount(minlength=len(best)).tolist()
    images, points, rows, before, start = [], [], [], 0, 0
    for each, part in zip(logits, index.split(counts), strict=True):
        size = each.shape[2] * each.shape[3]
        image = torch.div(part - before, size, rounding_mode="floor")
        cell = part - before - image * size
        images.append(image)
        points.append(cell + start)
        rows.append(each.flatten(2)[image, :, cell])
        before, start = before + len(each) * size, start + size
    return level, torch.cat(images), torch.cat(points), torch.cat(rows)


def _best_of_groups(ranked: Tensor, counts: Sequence[int], limit: int) -> Tensor:
    """Indices of the ``limit`` highest of each group; groups follow each other."""
    chosen, start = [], 0
    for values in ranked.split(list(counts)):
        if len(values) > limit:
            chosen.append(values.topk(limit, sorted=False).indices + start)
        else:
            chosen.append(torch.arange(start, start + len(values), device=ranked.device))
        start += len(values)
    return torch.cat(chosen)


def _choose(
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    points: Tensor,
    image_size: tuple[int, int],
    options: PostprocessOptions,
    compat: Compat,
) -> Instances:
    """Detections among the candidates of one image."""
    nms_boxes = boxes
    if compat.clip_before_nms:
        nms_boxes = boxes = clip_boxes_to_image(boxes, image_size)
        if not compat.keep_empty_boxes:
            full = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, scores, classes, points = (x[full] for x in (boxes, scores, classes, points))
            nms_boxes = boxes
    if compat.one_pixel_boxes:
        boxes = clip_boxes_to_image(boxes, (image_size[0] - 1, image_size[1] - 1))
        nms_boxes = boxes + boxes.new_tensor([0, 0, 1, 1])
    keep, kept_scores = suppress(
        nms_boxes,
        scores,
        classes,
        kind=options.nms_type,
        iou_threshold=options.nms_threshold,
        sigma=options.soft_nms_sigma,
        max_detections=options.max_detections,
    )
    return Instances(
        image_size,
        pred_boxes=Boxes(boxes[keep]),
        scores=kept_scores,
        pred_classes=classes[keep],
        locations=points[keep],
    )


def rescale_detections(
    detections: Instances, height: int, width: int, compat: Compat = DEFAULT_COMPAT
) -> Instances:
    """Detections in the coordinates of the original image, clipped to it, empty boxes dropped.

    Does what detectron2's ``detector_postprocess`` does to boxes, without changing its input.

    Args:
        detections: of :func:`detect_images`.
        height, width: size wanted, in pixels.
        compat: with ``one_pixel_boxes`` the returned boxes end one pixel later, so that they mean
            the same area in detectron2's convention; ``keep_empty_boxes`` drops none.
    """
    scale_y, scale_x = height / detections.image_size[0], width / detections.image_size[1]
    boxes = detections.pred_boxes.clone()
    boxes.scale(scale_x, scale_y)
    if compat.one_pixel_boxes:
        boxes.tensor[:, 2:] += 1
    boxes.clip((height, width))
    fields = {**detections.get_fields(), "pred_boxes": boxes}
    if "locations" in fields:
        fields["locations"] = fields["locations"] * fields["locations"].new_tensor(
            [scale_x, scale_y]
        )
    result = Instances((height, width), **fields)
    return result if compat.keep_empty_boxes else result[boxes.nonempty()]
