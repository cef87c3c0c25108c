"""FCOS as functions of tensors only, for exporters: shapes may be symbolic, control flow is fixed.

The rules are those of :mod:`fcos_d2.modeling.postprocess`, applied to a whole batch at once.
Rejected candidates get the score -1 instead of being removed: shapes must not depend on values.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..modeling.box_coder import decode_boxes
from ..modeling.fcos import FCOS
from ..modeling.locations import LocationGenerator
from ..modeling.postprocess import boxes_for_nms, final_scores, rank_scores
from .nms import nms_mask

__all__ = ["CompleteModel", "RawModel"]

NMS_KINDS = ("per_class", "class_agnostic", "none")


class RawModel(nn.Module):
    """Module from pixels to dense predictions."""

    def __init__(self, model: FCOS):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Predict at every location.

        Args:
            images: (N, 3, H, W) float32, pixels 0 to 255, padded at the right and bottom with any
                values to multiples of the backbone's size divisibility.
            image_sizes: (N, 2) int64 height, width without the padding.

        Returns:
            (N, P, C) class logits, (N, P, 4) ltrb distances in pixels, (N, P) quality logits
            (centerness or IoU), (P, 2) locations x, y in pixels.
        """
        logits, distances, quality, points = zip(*self.levels(images, image_sizes), strict=True)
        return (
            torch.cat(logits, dim=1),
            torch.cat(distances, dim=1),
            torch.cat(quality, dim=1),
            torch.cat(points),
        )

    def levels(self, images: Tensor, image_sizes: Tensor) -> list[tuple[Tensor, ...]]:
        """Outputs of :meth:`forward` for each of the L levels."""
        model = self.model
        pixels = (images - model.pixel_mean) / model.pixel_std
        y = torch.arange(images.shape[-2], device=images.device)
        x = torch.arange(images.shape[-1], device=images.device)
        in_rows, in_columns = y < image_sizes[:, :1], x < image_sizes[:, 1:]
        inside = in_rows[:, None, :, None] & in_columns[:, None, None]
        maps = model.network(torch.where(inside, pixels, 0.0))  # padding is 0 after normalization
        levels: list[tuple[Tensor, ...]] = []
        for logits, boxes, quality, stride in zip(*maps, model.strides, strict=True):
            locate = LocationGenerator([stride], model.location_generator.even_grid)
            points = locate([logits.shape[-2:]], images.shape[-2:], images.device).points
            rows = [m.flatten(2).transpose(1, 2) for m in (logits, boxes, quality)]
            distances = model.head.box_coder.pixel_distances(rows[1], stride)
            levels.append((rows[0], distances, rows[2][..., 0], points))
        return levels


class CompleteModel(nn.Module):
    """Module from pixels to detections.

    Args:
        model: model whose ``postprocess`` options apply.
        min_score: lowest final score of a detection.

    Raises:
        ValueError: for soft NMS.
    """

    def __init__(self, model: FCOS, *, min_score: float = 0.0):
        super().__init__()
        kind = model.postprocess.nms_type
        if kind not in NMS_KINDS:
            raise ValueError(
                f"MODEL.FCOS.NMS_TYPE {kind} is not possible inside an exported model, only "
                f"{', '.join(NMS_KINDS)}: export without NMS (--nms none) and apply {kind} NMS "
                "afterwards, or choose another NMS_TYPE"
            )
        self.raw = RawModel(model)
        self.options = model.postprocess
        self.num_classes = model.head.num_classes
        self.min_score = min_score
        self.nms: Callable[..., Tensor] = nms_mask

    def forward(self, images: Tensor, image_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect; see :meth:`RawModel.forward` for the arguments.

        Returns:
            (N, K, 4) boxes x1, y1, x2, y2 in pixels of ``images``, clipped to the image sizes;
            (N, K) scores, best first; (N, K) int64 classes; (N,) int64 number of detections among
            the K entries. The other entries have box 0, score 0 and class -1.
        """
        levels = [self._candidates(*level) for level in self.raw.levels(images, image_sizes)]
        boxes, scores, classes = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        limits = image_sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # w, h, w, h
        boxes, nms_boxes, may_stay = boxes_for_nms(boxes, limits, self.options)
        if may_stay is not None:
            scores = torch.where(may_stay, scores, -1.0)
        boxes, scores, classes = self._best(boxes, nms_boxes, scores, classes)
        if not self.options.one_pixel_boxes:
            boxes = boxes.clamp(min=0).minimum(limits)
        if not (self.options.keep_empty_boxes or self.options.one_pixel_boxes):
            has_area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
            scores = torch.where(has_area, scores, -1.0)
            scores, order = scores.topk(scores.shape[1])
            boxes, classes = _pick(boxes, order), classes.gather(1, order)
        found = scores >= 0
        return (
            torch.where(found[..., None], boxes, 0.0),
            torch.where(found, scores, 0.0),
            torch.where(found, classes, -1),
            found.sum(dim=1),
        )

    def _candidates(
        self, logits: Tensor, distances: Tensor, quality: Tensor, points: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The top-k of one level: (N, k, 4) boxes, (N, k) scores, -1 for none, (N, k) classes."""
        options = self.options
        valid = distances.isfinite().all(dim=-1) & ~quality.isnan()
        scores, tested, ranked = rank_scores(
            logits.sigmoid(), quality.sigmoid()[..., None], options
        )
        passed = (tested > options.score_threshold) & valid[..., None]
        ranked = torch.where(passed, ranked, -1.0).flatten(1)
        # With this padding there are always enough candidates, in an image of any size.
        ranked = F.pad(ranked, (0, options.topk_per_level), value=-1.0)
        best, index = ranked.topk(options.topk_per_level)
        # In the order of locations, because NMS takes the first of equal scores.
        index, order = index.sort(dim=1)
        found = best.gather(1, order) >= 0
        index = torch.where(found, index, 0)
        where = torch.div(index, self.num_classes, rounding_mode="floor")
        boxes = decode_boxes(points[where], _pick(distances, where))
        scores = final_scores(scores.flatten(1).gather(1, index), options)
        found = found & (scores >= self.min_score)
        return (
            torch.where(found[..., None], boxes, 0.0),
            torch.where(found, scores, -1.0),
            index - where * self.num_classes,
        )

    def _best(
        self, boxes: Tensor, nms_boxes: Tensor, scores: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes of the best candidates that NMS keeps, best first."""
        options = self.options
        count = boxes.shape[1]
        if options.max_detections >= 0:
            count = min(count, options.max_detections)
        if options.nms_type != "none":
            apart = options.nms_type == "per_class"
            groups = classes if apart else torch.zeros_like(classes)
            num_groups = self.num_classes if apart else 1
            keep = self.nms(nms_boxes, scores, groups, num_groups, options.nms_threshold, count)
            scores = torch.where(keep, scores, -1.0)
        scores, order = scores.topk(count)
        return _pick(boxes, order), scores, classes.gather(1, order)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` (N, K) of ``values`` (N, P, 4), as (N, K, 4)."""
    return values.gather(1, index[..., None].expand(-1, -1, 4))
