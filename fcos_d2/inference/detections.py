"""What a model found in a picture: as arrays, for JSON, in COCO's format, and drawn."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..data.images import ImageInput, read_rgb

__all__ = ["Detections", "class_color"]

_MARGIN = 2  # of a label around its text, in pixels


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one picture, best first.

    Attributes:
        boxes: (K, 4) float32 x1, y1, x2, y2 in pixels of the upright original picture.
        scores: (K,) float32 in [0, 1].
        class_ids: (K,) int64, from 0.
        class_names: K names.
        image_size: (height, width) in pixels.
        source: path of the picture; None if it had none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    class_names: list[str]
    image_size: tuple[int, int]
    source: str | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: np.ndarray) -> "Detections":
        """Those that ``keep`` chooses: (K,) bool, or indices in the order wanted."""
        chosen = np.arange(len(self.scores))[keep]
        return Detections(
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            class_ids=self.class_ids[keep],
            class_names=[self.class_names[i] for i in chosen],
            image_size=self.image_size,
            source=self.source,
        )

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict]:
        """Results in COCO's format.

        Args:
            image_id: of the picture.
            category_ids: the category id of each of the model's classes; None counts from 1.

        Returns:
            K dicts with ``bbox`` as x, y, width, height in pixels, to a thousandth.
        """
        return [
            {
                "image_id": image_id,
                "category_id": int(i + 1 if category_ids is None else category_ids[i]),
                "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
            for (x1, y1, x2, y2), score, i in zip(
                self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist()
            )
        ]

    def to_dict(self) -> dict:
        """All attributes as plain values for JSON: pixels to a thousandth, scores to 1e-5."""
        return {
            "source": self.source,
            "image_size": list(self.image_size),
            "boxes": [[round(v, 3) for v in box] for box in self.boxes.tolist()],
            "scores": [round(score, 5) for score in self.scores.tolist()],
            "class_ids": self.class_ids.tolist(),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Detections":
        """The inverse of :meth:`to_dict`; other entries are ignored."""
        return cls(
            boxes=np.array(values["boxes"], dtype=np.float32).reshape(-1, 4),
            scores=np.array(values["scores"], dtype=np.float32),
            class_ids=np.array(values["class_ids"], dtype=np.int64),
            class_names=list(values["class_names"]),
            image_size=tuple(values["image_size"]),
            source=values.get("source"),
        )

    def draw(self, image: ImageInput) -> Image.Image:
        """The picture with boxes, class names and scores, a colour for each class.

        All boxes are drawn, the best on top. A label that would cover that of a better one is left
        out: where objects are dense, nothing could be read otherwise.

        Args:
            image: the picture these are of, as :func:`fcos_d2.data.images.read_rgb` takes it.

        Returns:
            A new RGB image.
        """
        picture = Image.fromarray(read_rgb(image))
        canvas = ImageDraw.Draw(picture)
        longest = max(picture.size)
        width = max(2, round(longest / 500))
        font = _font(min(max(longest // 60, 12), 48))
        best_first = np.argsort(-self.scores, kind="stable")
        for i in best_first[::-1]:
            color = class_color(int(self.class_ids[i]))
            x1, y1, x2, y2 = self.boxes[i].tolist()
            canvas.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)
        plates: list[tuple[float, float, float, float]] = []
        for i in best_first:
            label = f"{self.class_names[i]} {self.scores[i]:.2f}"
            plate = _label_plate(canvas, label, self.boxes[i, :2].tolist(), font)
            if not any(_overlap(plate, other) for other in plates):
                plates.append(plate)
                _draw_label(canvas, label, plate, class_color(int(self.class_ids[i])), font)
        return picture


def class_color(class_id: int) -> tuple[int, int, int]:
    """RGB; neighbouring classes get hues far apart."""
    hue = (0.52 + class_id * 0.618034) % 1  # the golden ratio never comes back to a hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9 if class_id % 2 == 0 else 0.6, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _font(size: int):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _label_plate(canvas: ImageDraw.ImageDraw, text: str, corner, font) -> tuple:
    """x1, y1, x2, y2 of a label above the corner (x, y) or, without room there, below it."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    width, height = right - left + 2 * _MARGIN, bottom - top + 2 * _MARGIN
    x = max(0, min(corner[0], canvas.im.size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    return x, y, x + width, y + height


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_label(canvas: ImageDraw.ImageDraw, text: str, plate: tuple, color, font) -> None:
    """Text on a plate of ``color``."""
    canvas.rectangle(plate, fill=color)
    left, top, *_ = canvas.textbbox((0, 0), text, font=font)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128
    ink = (0, 0, 0) if bright else (255, 255, 255)
    place = (plate[0] + _MARGIN - left, plate[1] + _MARGIN - top)
    canvas.text(place, text, fill=ink, font=font)
