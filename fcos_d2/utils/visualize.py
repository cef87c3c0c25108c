"""Boxes drawn on images, with torchvision alone: OpenCV may be missing."""

import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

__all__ = ["DETECTION_COLOR", "GROUND_TRUTH_COLOR", "draw_boxes", "training_picture"]

GROUND_TRUTH_COLOR = (255, 214, 0)
DETECTION_COLOR = (0, 229, 255)


def draw_boxes(image: Tensor, boxes: Tensor, color: tuple[int, int, int], width: int = 2) -> Tensor:
    """Outline boxes.

    Args:
        image: (3, H, W) uint8, RGB.
        boxes: (K, 4) x1, y1, x2, y2 in pixels; those without an area are left out.
        color: RGB.
        width: of the line, in pixels.

    Returns:
        (3, H, W) uint8, a new tensor.
    """
    boxes = boxes.cpu()
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    if len(boxes) == 0:
        return image.clone()
    return draw_bounding_boxes(image, boxes, colors=color, width=width)


def training_picture(
    inputs: dict, detections: Instances, input_format: str, max_boxes: int = 20
) -> np.ndarray:
    """Ground truth at the left, the best detections at the right, of one training image.

    Args:
        inputs: one input of the model: ``image`` (3, H, W) and ``instances``.
        detections: of that image, in its pixels.
        input_format: "RGB" or "BGR", the order of the image's channels.
        max_boxes: how many detections to draw.

    Returns:
        (3, H, 2 W) uint8, RGB, as detectron2's ``EventStorage.put_image`` takes it.
    """
    image = inputs["image"].detach().cpu().clamp(0, 255).to(torch.uint8)
    if input_format == "BGR":
        image = image.flip(0)
    truth = inputs["instances"].gt_boxes.tensor
    found = detections.pred_boxes.tensor[:max_boxes]
    left = draw_boxes(image, truth, GROUND_TRUTH_COLOR)
    right = draw_boxes(image, found, DETECTION_COLOR)
    return torch.cat((left, right), dim=2).numpy()
