"""From dense predictions to detections (FCOS paper, section 3.1, "Inference").

The order is AdelaiDet's: threshold, per-level top-k, decoding, per-class NMS over all levels, the
best detections. Clipping to the image and rescaling to its original size come last.
"""

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from .compat import Compat
from .locations import Locations
from .nms import suppress

__all__ = ["PostprocessOptions", "decode_boxes", "detect_image", "rescale_detections"]

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


def detect_image(
    logits: Tensor,
    distances: Tensor,
    quality: Tensor,
    locations: Locations,
    image_size: tuple[int, int],
    options: PostprocessOptions,
    compat: Compat = DEFAULT_COMPAT,
) -> Instances:
    """Detections of one image, in pixels of the network's input and best first.

    Args:
        logits: (P, C) class logits.
        distances: (P, 4) ltrb in pixels, not negative.
        quality: (P,) centerness (or IoU) logits.
        locations: the P locations.
        image_size: (height, width) of the image without padding.
        options: see :class:`PostprocessOptions`.
        compat: see :class:`Compat`.

    Returns:
        Instances with ``pred_boxes``, ``scores`` (sqrt of class x centerness probability),
        ``pred_classes`` and ``locations`` (K, 2). Boxes may leave the image;
        :func:`rescale_detections` clips them.
    """
    # NaN or infinite predictions, of a model that diverges, are no candidates.
    valid = distances.isfinite().all(dim=1) & ~quality.isnan()
    class_scores = logits.float().sigmoid() * valid[:, None]
    scores = class_scores * quality.float().sigmoid()[:, None]
    tested = scores if options.threshold_with_centerness else class_scores
    if compat.root_score_threshold:
        tested = scores.sqrt()
    ranked = class_scores if compat.topk_by_class_score else scores
    index = _candidates(tested, ranked, locations.level_sizes, options)
    where = torch.div(index, logits.shape[1], rounding_mode="floor")
    classes = index % logits.shape[1]
    scores = scores.flatten()[index]
    if not compat.product_scores:
        scores = scores.sqrt()
    points = locations.points[where]
    boxes = decode_boxes(points, distances[where].float())
    nms_boxes = boxes
    if compat.clip_before_nms:
        nms_boxes = boxes = clip_boxes_to_image(boxes, image_size)
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
    if compat.clip_before_nms and not compat.keep_empty_boxes:
        # An empty box suppresses none, so they may go as late as here.
        full = (boxes[keep, 2:] > boxes[keep, :2]).all(dim=1)
        keep, kept_scores = keep[full], kept_scores[full]
    if options.max_detections >= 0:
        keep, kept_scores = keep[: options.max_detections], kept_scores[: options.max_detections]
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
        detections: of :func:`detect_image`.
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


def _candidates(
    tested: Tensor, ranked: Tensor, level_sizes: list[int], options: PostprocessOptions
) -> Tensor:
    """Flat (location, class) indices above the threshold, at most top-k of each level.

    Args:
        tested, ranked: (P, C) what the threshold and what the top-k look at.
    """
    offset, chosen = 0, []
    for level_tested, level_ranked in zip(
        tested.split(level_sizes), ranked.split(level_sizes), strict=True
    ):
        index = (level_tested.flatten() > options.score_threshold).nonzero().squeeze(1)
        if len(index) > options.topk_per_level:
            best = level_ranked.flatten()[index].topk(options.topk_per_level, sorted=False).indices
            index = index[best]
        chosen.append(index + offset)
        offset += level_tested.numel()
    return torch.cat(chosen)
