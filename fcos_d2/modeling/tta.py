"""Test-time augmentation: several sizes and mirrored images, merged by one NMS.

As in the official code (``TEST.BBOX_AUG`` there), every pass contributes its candidates before
NMS, in the coordinates of the original image.
"""

import copy
from dataclasses import replace

import numpy as np
import torch
from detectron2.data.detection_utils import read_image
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from .fcos import FCOS
from .nms import apply_nms
from .postprocess import rescale_detections

__all__ = ["FCOSWithTTA"]


class FCOSWithTTA(nn.Module):
    """An FCOS that sees each image several times (TEST.AUG.MIN_SIZES, MAX_SIZE, FLIP).

    Args:
        cfg: config of the model.
        model: an ``FCOS``, possibly wrapped for distributed training.
    """

    def __init__(self, cfg, model: nn.Module):
        super().__init__()
        model = model.module if isinstance(model, DistributedDataParallel) else model
        if not isinstance(model, FCOS):
            raise TypeError(f"test-time augmentation here is for FCOS, not {type(model).__name__}")
        self.model = model
        self.input_format = cfg.INPUT.FORMAT
        self.augment = DatasetMapperTTA(cfg)

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Same as ``FCOS.forward`` in inference.

        Args:
            batched_inputs: dicts with ``file_name``, which is read again at full size, or else
                with ``image``.
        """
        return [{"instances": self._detect(inputs)} for inputs in batched_inputs]

    def _detect(self, inputs: dict) -> Instances:
        inputs = self._at_full_size(inputs)
        size = inputs["height"], inputs["width"]
        passes = [self._candidates(view, size) for view in self.augment(inputs)]
        together = Instances.cat(passes)
        options = self.model.postprocess
        keep, scores = apply_nms(
            together.pred_boxes.tensor,
            together.scores,
            together.pred_classes,
            nms_type=options.nms_type,
            iou_threshold=options.nms_threshold,
            sigma=options.soft_nms_sigma,
            max_detections=options.max_detections,
        )
        merged = together[keep]
        merged.scores = scores
        # _candidates has extended the boxes of each pass already.
        return rescale_detections(merged, *size, replace(options, one_pixel_boxes=False))

    def _at_full_size(self, inputs: dict) -> dict:
        inputs = copy.copy(inputs)
        if "file_name" in inputs:
            image = read_image(inputs["file_name"], self.input_format)
            inputs["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        inputs.setdefault("height", inputs["image"].shape[1])
        inputs.setdefault("width", inputs["image"].shape[2])
        return inputs

    def _candidates(self, view: dict, size: tuple[int, int]) -> Instances:
        """All candidates of one pass, in the coordinates of the original image."""
        transforms = view["transforms"]
        found = self.model.detect_without_nms([{"image": view["image"]}])[0]
        boxes = found.pred_boxes.tensor
        if self.model.postprocess.one_pixel_boxes:  # from the last pixel to the end of the box
            boxes = boxes + boxes.new_tensor([0, 0, 1, 1])
        original = transforms.inverse().apply_box(boxes.cpu().numpy())
        original = torch.as_tensor(original, dtype=boxes.dtype, device=boxes.device)
        return Instances(
            size,
            pred_boxes=Boxes(original.reshape(-1, 4)),
            scores=found.scores,
            pred_classes=found.pred_classes,
        )
