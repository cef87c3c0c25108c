"""Conventions of other FCOS code bases, for models trained there (see ``docs/model_zoo.md``)."""

from dataclasses import dataclass

__all__ = ["Compat"]


@dataclass(frozen=True)
class Compat:
    """Differences between the published FCOS; all off is AdelaiDet's way.

    The config keys are those of ``MODEL.FCOS.COMPAT``, in capitals. ``build.py`` hands each switch
    to the part that it concerns.

    Attributes:
        one_pixel_boxes: a box contains its last pixel (official): areas and IoU count one more,
            boxes are clipped to [0, size - 1] before NMS.
        grid_locations: a location is the corner of its cell, not the center, and cells divide the
            padded image evenly instead of being one stride long (torchvision).
        exclusive_ranges: both ends of a level's size range belong to no level (torchvision,
            detectron2).
        unsmoothed_iou: areas in the box loss are not increased by one (torchvision, detectron2,
            mmdetection).
        unweighted_box_loss: the box loss is not weighted by centerness (torchvision, detectron2).
        root_score_threshold: the threshold applies to the final score, the root of class x
            centerness probability (torchvision, detectron2).
        topk_by_class_score: the per-level top-k ranks by class probability (mmdetection).
        product_scores: a score is class x centerness probability, not its root (mmdetection).
        clip_before_nms: boxes are clipped to the image, and empty boxes dropped, before NMS
            (torchvision, mmdetection).
        keep_empty_boxes: detections without area are kept (torchvision).
    """

    one_pixel_boxes: bool = False
    grid_locations: bool = False
    exclusive_ranges: bool = False
    unsmoothed_iou: bool = False
    unweighted_box_loss: bool = False
    root_score_threshold: bool = False
    topk_by_class_score: bool = False
    product_scores: bool = False
    clip_before_nms: bool = False
    keep_empty_boxes: bool = False
