"""Detections on one image: as arrays, for JSON, in COCO's format, and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..data.images import ImageInput, read_rgb
from ..utils.visualize import draw_labeled_boxes

__all__ = ["Detections"]


@dataclass(frozen=True, eq=False)
class Detections:
    """Detected objects of one image, best first.

    Attributes:
        boxes: (K, 4) float32 x1, y1, x2, y2 in pixels of the upright original image.
        scores: (K,) float32 in [0, 1].
        class_ids: (K,) int64, from 0.
        class_names: K names.
        image_size: (height, width) in pixels.
        source: path of the image; None for an image that was not read from a file.
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
        """A subset of the detections.

        Args:
            keep: (K,) bool, or indices in the wanted order.
        """
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
        """Convert to COCO's results format.

        Args:
            image_id: COCO id of the image.
            category_ids: category id of each of the model's classes; None counts from 1.

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
        """Inverse of :meth:`to_dict`; unknown entries are ignored."""
        return cls(
            boxes=np.array(values["boxes"], dtype=np.float32).reshape(-1, 4),
            scores=np.array(values["scores"], dtype=np.float32),
            class_ids=np.array(values["class_ids"], dtype=np.int64),
            class_names=list(values["class_names"]),
            image_size=tuple(values["image_size"]),
            source=values.get("source"),
        )

    def draw(self, image: ImageInput) -> Image.Image:
        """Draw boxes, class names and scores, one color per class.

        See :func:`fcos_d2.utils.visualize.draw_labeled_boxes`.

        Args:
            image: the image in which these objects were detected, in any form that
                :func:`fcos_d2.data.images.read_rgb` takes.

        Returns:
            A new RGB image.
        """
        best_first = np.argsort(-self.scores, kind="stable")
        labels = [f"{self.class_names[i]} {self.scores[i]:.2f}" for i in best_first]
        return draw_labeled_boxes(
            read_rgb(image), self.boxes[best_first], labels, self.class_ids[best_first]
        )
