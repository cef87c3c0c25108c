"""Boxes and labels drawn on images with Pillow."""

import colorsys
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

__all__ = [
    "DETECTION_COLOR",
    "GROUND_TRUTH_COLOR",
    "class_color",
    "draw_boxes",
    "draw_labeled_boxes",
    "training_image",
]

GROUND_TRUTH_COLOR = (255, 214, 0)
DETECTION_COLOR = (0, 229, 255)

# Space around the text of a label, in pixels.
_MARGIN = 2

_Color: TypeAlias = tuple[int, int, int]
_Rectangle: TypeAlias = tuple[float, float, float, float]


def draw_boxes(image: Tensor, boxes: Tensor, color: _Color) -> Tensor:
    """Outline boxes with lines of 2 pixels.

    Args:
        image: (3, H, W) uint8, RGB.
        boxes: (K, 4) x1, y1, x2, y2 in pixels; boxes without an area are left out.
        color: RGB.

    Returns:
        (3, H, W) uint8, a new tensor.
    """
    boxes = boxes.cpu()
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
    drawn = Image.fromarray(image.cpu().permute(1, 2, 0).contiguous().numpy())
    canvas = ImageDraw.Draw(drawn)
    for box in boxes.tolist():
        _outline(canvas, box, color, width=2)
    return torch.from_numpy(np.array(drawn)).permute(2, 0, 1).contiguous()


def draw_labeled_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: Sequence[str], class_ids: np.ndarray
) -> Image.Image:
    """Draw boxes with labels, one color per class.

    All boxes are drawn, the best on top. A label that would cover the label of a better box is left
    out: where objects are dense, no label could be read otherwise.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (K, 4) x1, y1, x2, y2 in pixels, best first.
        labels: K texts.
        class_ids: (K,) int64; each decides the color of a box.

    Returns:
        A new RGB image.
    """
    drawn = Image.fromarray(image)
    canvas = ImageDraw.Draw(drawn)
    longest = max(drawn.size)
    width = max(2, round(longest / 500))
    font = _font(min(max(longest // 60, 12), 48))
    colors = [class_color(int(i)) for i in class_ids]
    for box, color in zip(boxes[::-1].tolist(), colors[::-1], strict=True):
        _outline(canvas, box, color, width)
    plates: list[_Rectangle] = []
    for box, color, label in zip(boxes.tolist(), colors, labels, strict=True):
        plate = _label_plate(canvas, label, box[:2], font)
        if not any(_overlap(plate, other) for other in plates):
            plates.append(plate)
            _draw_label(canvas, label, plate, color, font)
    return drawn


def class_color(class_id: int) -> _Color:
    """RGB color of a class; classes with neighboring ids get very different hues."""
    hue = (0.52 + class_id * 0.618034) % 1  # steps of the golden ratio never repeat a hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9 if class_id % 2 == 0 else 0.6, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def training_image(
    inputs: dict, detections: Instances, input_format: str, max_boxes: int = 20
) -> np.ndarray:
    """One training image twice: ground truth on the left, the best detections on the right.

    Args:
        inputs: one input of the model: ``image`` (3, H, W) and ``instances``.
        detections: detections on this image, in its pixels.
        input_format: "RGB" or "BGR", the order of the image's channels.
        max_boxes: largest number of detections drawn.

    Returns:
        (3, H, 2 W) uint8, RGB, as detectron2's ``EventStorage.put_image`` takes it.
    """
    image = inputs["image"].detach().cpu().clamp(0, 255).to(torch.uint8)
    if input_format == "BGR":
        image = image.flip(0)
    left = draw_boxes(image, inputs["instances"].gt_boxes.tensor, GROUND_TRUTH_COLOR)
    right = draw_boxes(image, detections.pred_boxes.tensor[:max_boxes], DETECTION_COLOR)
    return torch.cat((left, right), dim=2).numpy()


def _outline(canvas: ImageDraw.ImageDraw, box: Sequence[float], color: _Color, width: int) -> None:
    x1, y1, x2, y2 = box
    # Pillow's x2 and y2 are pixels that are drawn, not the first ones outside.
    canvas.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)


def _font(size: int):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _label_plate(
    canvas: ImageDraw.ImageDraw, text: str, corner: Sequence[float], font
) -> _Rectangle:
    """Background x1, y1, x2, y2 of a label above the corner (x, y), or below it at the top edge."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * _MARGIN, bottom - top + 2 * _MARGIN
    x = max(0, min(corner[0], canvas.im.size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    return x, y, x + width, y + height


def _overlap(a: _Rectangle, b: _Rectangle) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_label(
    canvas: ImageDraw.ImageDraw, text: str, plate: _Rectangle, color: _Color, font
) -> None:
    canvas.rectangle(plate, fill=color)
    left, top, *_ = canvas.textbbox((0, 0), text, font=font)
    is_bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128
    text_color = (0, 0, 0) if is_bright else (255, 255, 255)
    position = (plate[0] + _MARGIN - left, plate[1] + _MARGIN - top)
    canvas.text(position, text, fill=text_color, font=font)
