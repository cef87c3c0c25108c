"""detectron2's COCO evaluator, which explains an AP that is 0 or NaN."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator

import torch
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from detectron2.structures import Boxes, pairwise_iou

__all__ = ["FCOSEvaluator", "explain_low_ap"]

logger = logging.getLogger(__name__)

# IoU from which a detection counts as having found an object.
_FOUND_IOU = 0.5


class FCOSEvaluator(COCOEvaluator):
    """detectron2's ``COCOEvaluator`` with ``faster-coco-eval``, if it is installed."""

    def _eval_predictions(self, predictions, img_ids=None) -> None:
        # Called in the main process only, with the predictions of all processes.
        with _faster_cocoeval():
            super()._eval_predictions(predictions, img_ids)
        ap = self._results.get("bbox", {}).get("AP", math.nan)
        detections = [d for p in predictions for d in p.get("instances", ())]
        annotations = list(self._coco_api.anns.values())
        reason = explain_low_ap(ap, detections, annotations)
        if reason:
            logger.warning("AP is %s: %s", f"{ap:.2f}" if math.isfinite(ap) else ap, reason)


@contextlib.contextmanager
def _faster_cocoeval() -> Iterator[None]:
    """Temporarily replaces the class that detectron2's module refers to."""
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:
        yield
        return
    original = coco_evaluation.COCOeval
    coco_evaluation.COCOeval = functools.partial(COCOeval_faster, print_function=logger.info)
    logger.info("Evaluating with faster-coco-eval, which gives pycocotools' numbers")
    try:
        yield
    finally:
        coco_evaluation.COCOeval = original


def explain_low_ap(ap: float, detections: list[dict], annotations: list[dict]) -> str:
    """Find the reason for an AP that is 0, negative or NaN.

    Args:
        ap: average precision in percent.
        detections: COCO results: ``image_id``, ``category_id``, ``bbox`` as x, y, width, height.
        annotations: COCO ground truth with the same fields.

    Returns:
        The reason; "" for a positive AP.
    """
    if math.isfinite(ap) and ap > 0:
        return ""
    if not annotations:
        return "the test set has no annotations, so there is nothing to compare with"
    if not detections:
        return (
            "the model detected nothing. It may be untrained, have diverged, or have other weights "
            "than it was trained with (see 'weights matched' above); or "
            "MODEL.FCOS.INFERENCE_TH_TEST is too high"
        )
    images = {d["image_id"] for d in detections} & {a["image_id"] for a in annotations}
    if not images:
        return "detections and annotations are about different images: no image id is in both"
    found, right = _count_found(detections, annotations, images)
    if not found:
        return (
            f"none of {len(detections)} detections overlaps an object by half. Wrong pixel format, "
            "mean or deviation for these weights, or an untrained model"
        )
    if not right:
        return (
            f"{found} objects were found, but always as another class: are the classes of the "
            "model in the order of the dataset's category ids?"
        )
    return f"only {right} objects were found, and with low scores: the model is hardly trained"


def _count_found(detections, annotations, images) -> tuple[int, int]:
    """Numbers of objects found by any detection, and by a detection of their own class."""
    found = right = 0
    for image in images:
        found_here = [d for d in detections if d["image_id"] == image]
        objects = [a for a in annotations if a["image_id"] == image]
        overlap = pairwise_iou(_boxes(found_here), _boxes(objects)) >= _FOUND_IOU
        classes = torch.tensor([d["category_id"] for d in found_here])[:, None]
        same = classes == torch.tensor([a["category_id"] for a in objects])[None]
        found += int(overlap.any(dim=0).sum())
        right += int((overlap & same).any(dim=0).sum())
    return found, right


def _boxes(items: list[dict]) -> Boxes:
    boxes = torch.tensor([item["bbox"] for item in items], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Boxes(boxes)
