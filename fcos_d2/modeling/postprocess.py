"""From dense predictions to detections (FCOS paper, section 3.1, "Inference").

The order is AdelaiDet's: threshold, per-level top-k, decoding, NMS over all levels, the best
detections. Clipping to the image and rescaling to its original size come last.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from ..utils.device import to_device
from .box_coder import BoxCoder, decode_boxes
from .head import Predictions
from .nms import apply_nms

__all__ = [
    "PostprocessOptions",
    "boxes_for_nms",
    "detect_images",
    "final_scores",
    "rank_scores",
    "rescale_detections",
]


@dataclass(frozen=True)
class PostprocessOptions:
    """Options that turn scores into detections; the config key of each is in brackets.

    Attributes:
        score_threshold: lowest class probability of a candidate [INFERENCE_TH].
        threshold_with_centerness: compare class x centerness probability with the threshold
            instead of the class probability [THRESH_WITH_CTR].
        topk_per_level: candidates kept of each level [PRE_NMS_TOPK].
        nms_threshold: IoU above which the lower-scoring box of a class is removed [NMS_TH].
        max_detections: detections kept of one image; negative keeps all [POST_NMS_TOPK].
        nms_type: see :func:`~fcos_d2.modeling.nms.apply_nms` [NMS_TYPE].
        soft_nms_sigma: sigma of Gaussian soft-NMS [SOFT_NMS_SIGMA].
        one_pixel_boxes, root_score_threshold, topk_by_class_score, product_scores,
            clip_before_nms, keep_empty_boxes: conventions of other code bases; see
            :class:`~fcos_d2.modeling.compat.Compat` [COMPAT].
    """

    score_threshold: float = 0.05
    threshold_with_centerness: bool = False
    topk_per_level: int = 1000
    nms_threshold: float = 0.6
    max_detections: int = 100
    nms_type: str = "per_class"
    soft_nms_sigma: float = 0.5
    one_pixel_boxes: bool = False
    root_score_threshold: bool = False
    topk_by_class_score: bool = False
    product_scores: bool = False
    clip_before_nms: bool = False
    keep_empty_boxes: bool = False


@torch.no_grad()
def detect_images(
    predictions: Predictions,
    image_sizes: Sequence[tuple[int, int]],
    options: PostprocessOptions,
    box_coder: BoxCoder,
) -> list[Instances]:
    """Detections of each image, in pixels of the network's input and best first.

    Args:
        predictions: dense predictions of N images.
        image_sizes: N pairs (height, width) of the images without padding.
        options: see :class:`PostprocessOptions`.
        box_coder: representation of the predicted boxes.

    Returns:
        N Instances with ``pred_boxes``, ``scores`` (sqrt of class x centerness probability),
        ``pred_classes`` and ``locations`` (K, 2). Boxes may leave the image;
        :func:`rescale_detections` clips them.
    """
    image, points, distances, classes, product = _find_candidates(predictions, options, box_coder)
    boxes, scores = decode_boxes(points, distances), final_scores(product, options)
    counts = image.bincount(minlength=len(image_sizes)).tolist()
    fields = (boxes, scores, classes, points)
    parts = zip(image_sizes, *(x.split(counts) for x in fields), strict=True)
    return [_select(options, *part) for part in parts]


def rank_scores(
    class_scores: Tensor, quality_scores: Tensor, options: PostprocessOptions
) -> tuple[Tensor, Tensor, Tensor]:
    """Score rule before NMS, the same in PyTorch and in exported models.

    Args:
        class_scores: class probabilities.
        quality_scores: centerness or IoU probabilities, broadcast against ``class_scores``.
        options: see :class:`PostprocessOptions`.

    Returns:
        Product of both; score that is compared with the threshold; score that ranks candidates
        in the top-k.
    """
    product = class_scores * quality_scores
    tested = product if options.threshold_with_centerness else class_scores
    if options.root_score_threshold:
        tested = product.sqrt()
    ranked = class_scores if options.topk_by_class_score else product
    return product, tested, ranked


def final_scores(product: Tensor, options: PostprocessOptions) -> Tensor:
    """Scores of detections from products of class and quality probability."""
    return product if options.product_scores else product.sqrt()


def boxes_for_nms(
    boxes: Tensor, image_limits: Tensor, options: PostprocessOptions
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Box rule before NMS, the same in PyTorch and in exported models.

    Args:
        boxes: (..., 4) x1, y1, x2, y2 in pixels.
        image_limits: width, height, width, height of the image, broadcast against ``boxes``.
        options: see :class:`PostprocessOptions`.

    Returns:
        Boxes; boxes as NMS compares them; (...) bool mask of the boxes that may stay, or ``None``
        if all may.
    """
    has_area = None
    if options.clip_before_nms:
        boxes = boxes.clamp(min=0).minimum(image_limits)
        if not options.keep_empty_boxes:
            has_area = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    nms_boxes = boxes
    if options.one_pixel_boxes:
        boxes = boxes.clamp(min=0).minimum(image_limits - 1)
        nms_boxes = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    return boxes, nms_boxes, has_area


def _find_candidates(
    predictions: Predictions, options: PostprocessOptions, box_coder: BoxCoder
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Candidates above the threshold, at most top-k of each level and image, ordered by image.

    Scores are computed only where some class logit can pass the threshold.

    Returns:
        (K,) image index, (K, 2) location x, y and (K, 4) ltrb distances in pixels, (K,) class,
        (K,) product of class and quality probability.
    """
    lowest = _logit_threshold(options)
    found = _prefilter(predictions, lowest)
    row, classes = (found.logits > lowest).nonzero().unbind(1)
    class_scores = found.logits[row, classes].float().sigmoid()
    locations = predictions.locations
    distances = box_coder.pixel_distances(
        found.boxes, locations.strides[found.location_index, None]
    )
    # Drop NaN and infinite predictions (diverged model).
    quality = found.quality.float().sigmoid()
    quality = quality.where(distances.isfinite().all(dim=1), math.nan)
    product, tested, ranked = rank_scores(class_scores, quality[row], options)
    passed = ((tested > options.score_threshold) & ~product.isnan()).nonzero().squeeze(1)
    row, classes, product, ranked = (x[passed] for x in (row, classes, product, ranked))
    num_levels, num_images = len(predictions.logits), len(predictions.logits[0])
    groups = found.level_index * num_images + found.image_index
    counts = groups[row].bincount(minlength=num_levels * num_images).tolist()
    best = _best_of_groups(ranked, counts, options.topk_per_level)
    best = best[found.image_index[row[best]].argsort(stable=True)]
    row = row[best]
    points = locations.points[found.location_index[row]]
    return found.image_index[row], points, distances[row], classes[best], product[best]


def _logit_threshold(options: PostprocessOptions) -> float:
    """Class logit below which every threshold fails, because no quality exceeds 1."""
    lowest = options.score_threshold ** (2 if options.root_score_threshold else 1)
    if lowest <= 0:
        return -math.inf
    return math.log(lowest / (1 - lowest)) - 1e-3 if lowest < 1 else math.inf


class _Rows(NamedTuple):
    """Predictions at R locations, ordered by level, then image, then location.

    Attributes:
        level_index, image_index, location_index: (R,) int64.
        logits: (R, C).
        boxes: (R, B) raw numbers.
        quality: (R,) logits.
    """

    level_index: Tensor
    image_index: Tensor
    location_index: Tensor
    logits: Tensor
    boxes: Tensor
    quality: Tensor


def _prefilter(predictions: Predictions, lowest: float) -> _Rows:
    """Predictions at the locations that have a class logit above ``lowest``."""
    best = [level.amax(dim=1).flatten() for level in predictions.logits]
    index = (torch.cat(best) > lowest).nonzero().squeeze(1)
    ends = to_device(torch.tensor([len(x) for x in best]).cumsum(0), index.device)
    level_index = torch.bucketize(index, ends, right=True)
    counts = level_index.bincount(minlength=len(best)).tolist()
    parts, before, start = [], 0, 0
    levels = zip(predictions.logits, predictions.boxes, predictions.quality, strict=True)
    for maps, part in zip(levels, index.split(counts), strict=True):
        num_images, _, height, width = maps[0].shape
        size = height * width
        image = torch.div(part - before, size, rounding_mode="floor")
        cell = part - before - image * size
        rows = [m.flatten(2)[image, :, cell] for m in maps]
        parts.append((image, cell + start, *rows))
        before, start = before + num_images * size, start + size
    image, location, logits, boxes, quality = (torch.cat(x) for x in zip(*parts, strict=True))
    return _Rows(level_index, image, location, logits, boxes, quality[:, 0])


def _best_of_groups(ranked: Tensor, counts: Sequence[int], limit: int) -> Tensor:
    """Indices of the ``limit`` highest values of each group; groups follow each other."""
    best, start = [], 0
    for values in ranked.split(list(counts)):
        if len(values) > limit:
            best.append(values.topk(limit, sorted=False).indices + start)
        else:
            best.append(torch.arange(start, start + len(values), device=ranked.device))
        start += len(values)
    return torch.cat(best)


def _select(
    options: PostprocessOptions,
    image_size: tuple[int, int],
    boxes: Tensor,
    scores: Tensor,
    classes: Tensor,
    points: Tensor,
) -> Instances:
    """Detections among the candidates of one image."""
    height, width = image_size
    nms_boxes = boxes
    if options.clip_before_nms or options.one_pixel_boxes:
        limits = boxes.new_tensor([width, height, width, height])
        boxes, nms_boxes, may_stay = boxes_for_nms(boxes, limits, options)
        if may_stay is not None:
            fields = (boxes, nms_boxes, scores, classes, points)
            boxes, nms_boxes, scores, classes, points = (x[may_stay] for x in fields)
    keep, kept_scores = apply_nms(
        nms_boxes,
        scores,
        classes,
        nms_type=options.nms_type,
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
    detections: Instances,
    height: int,
    width: int,
    options: PostprocessOptions = PostprocessOptions(),
) -> Instances:
    """Detections in the coordinates of the original image, clipped to it, without empty boxes.

    Does to boxes what detectron2's ``detector_postprocess`` does, without changing its input.

    Args:
        detections: result of :func:`detect_images` for one image.
        height, width: size of the original image, in pixels.
        options: with ``one_pixel_boxes`` the returned boxes end one pixel later, so that they
            mean the same area in detectron2's convention; ``keep_empty_boxes`` drops none.
    """
    scale_y, scale_x = height / detections.image_size[0], width / detections.image_size[1]
    boxes = detections.pred_boxes.clone()
    boxes.scale(scale_x, scale_y)
    if options.one_pixel_boxes:
        boxes.tensor[:, 2:] += 1
    boxes.clip((height, width))
    fields = {**detections.get_fields(), "pred_boxes": boxes}
    if "locations" in fields:
        fields["locations"] = fields["locations"] * fields["locations"].new_tensor(
            [scale_x, scale_y]
        )
    result = Instances((height, width), **fields)
    return result if options.keep_empty_boxes else result[boxes.nonempty()]
