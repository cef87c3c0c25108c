"""From dense predictions to detections (FCOS paper, section 3.1, "Inference").

The order is AdelaiDet's: threshold, per-level top-k, decoding, per-class NMS over all levels, the
best detections. Clipping to the image and rescaling to its original size come last.
"""

from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from .locations import Locations

__all__ = ["PostprocessOptions", "decode_boxes", "detect_image", "rescale_detections"]


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
        one_pixel_boxes: the official code's boxes, whose last pixel belongs to them: clipped to
            [0, size - 1] before NMS, IoU with sides one pixel longer [COMPAT.ONE_PIXEL_BOXES].
    """

    score_threshold: float = 0.05
    threshold_with_centerness: bool = False
    topk_per_level: int = 1000
    nms_threshold: float = 0.6
    max_detections: int = 100
    one_pixel_boxes: bool = False


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
) -> Instances:
    """Detections of one image, in pixels of the network's input and best first.

    Args:
        logits: (P, C) class logits.
        distances: (P, 4) ltrb in pixels, not negative.
        quality: (P,) centerness (or IoU) logits.
        locations: the P locations.
        image_size: (height, width) of the image without padding.
        options: see :class:`PostprocessOptions`.

    Returns:
        Instances with ``pred_boxes``, ``scores`` (sqrt of class x centerness probability),
        ``pred_classes`` and ``locations`` (K, 2). Boxes may leave the image;
        :func:`rescale_detections` clips them.
    """
    # NaN or infinite predictions, of a model that diverges, are no candidates.
    valid = distances.isfinite().all(dim=1) & ~quality.isnan()
    class_scores = logits.float().sigmoid() * valid[:, None]
    scores = class_scores * quality.float().sigmoid()[:, None]
    index = _candidates(class_scores, scores, locations.level_sizes, options)
    where = torch.div(index, logits.shape[1], rounding_mode="floor")
    classes = index % logits.shape[1]
    scores = scores.flatten()[index].sqrt()
    points = locations.points[where]
    boxes = decode_boxes(points, distances[where].float())
    nms_boxes = boxes
    if options.one_pixel_boxes:
        boxes = clip_boxes_to_image(boxes, (image_size[0] - 1, image_size[1] - 1))
        nms_boxes = boxes + boxes.new_tensor([0, 0, 1, 1])
    keep = batched_nms(nms_boxes, scores, classes, options.nms_threshold)
    if options.max_detections >= 0:
        keep = keep[: options.max_detections]
    return Instances(
        image_size,
        pred_boxes=Boxes(boxes[keep]),
        scores=scores[keep],
        pred_classes=classes[keep],
        locations=points[keep],
    )


def rescale_detections(
    detections: Instances, height: int, width: int, one_pixel_boxes: bool = False
) -> Instances:
    """Detections in the coordinates of the original image, clipped to it, empty boxes dropped.

    Does what detectron2's ``detector_postprocess`` does to boxes, without changing its input.

    Args:
        detections: of :func:`detect_image`.
        height, width: size wanted, in pixels.
        one_pixel_boxes: as in :class:`PostprocessOptions`; the returned boxes then end one pixel
            later, so that they mean the same area in detectron2's convention.
    """
    scale_y, scale_x = height / detections.image_size[0], width / detections.image_size[1]
    boxes = detections.pred_boxes.clone()
    boxes.scale(scale_x, scale_y)
    if one_pixel_boxes:
        boxes.tensor[:, 2:] += 1
    boxes.clip((height, width))
    fields = {**detections.get_fields(), "pred_boxes": boxes}
    if "locations" in fields:
        fields["locations"] = fields["locations"] * fields["locations"].new_tensor(
            [scale_x, scale_y]
        )
    return Instances((height, width), **fields)[boxes.nonempty()]


def _candidates(
    class_scores: Tensor, scores: Tensor, level_sizes: list[int], options: PostprocessOptions
) -> Tensor:
    """Flat (location, class) indices above the threshold, at most top-k of each level."""
    tested = scores if options.threshold_with_centerness else class_scores
    offset, chosen = 0, []
    for level_tested, level_scores in zip(
        tested.split(level_sizes), scores.split(level_sizes), strict=True
    ):
        index = (level_tested.flatten() > options.score_threshold).nonzero().squeeze(1)
        if len(index) > options.topk_per_level:
            best = level_scores.flatten()[index].topk(options.topk_per_level, sorted=False).indices
            index = index[best]
        chosen.append(index + offset)
        offset += level_tested.numel()
    return torch.cat(chosen)
