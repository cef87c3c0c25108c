"""Kinds of faults of a dataset, and the collected examples of each kind."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["KINDS", "Collector", "Example", "Finding"]

# Kind -> severity and meaning. An error stops training or makes its results wrong.
KINDS = {
    "image_missing": ("error", "the file is not in the image folder"),
    "image_unreadable": ("error", "not an image, damaged or truncated: replace the file"),
    "size_differs": ("error", "width and height in the JSON differ from the image"),
    "exif_rotation": (
        "error",
        "the EXIF tag rotates the image when it is read, but the JSON has the size before "
        "rotation: save the image upright or swap width and height",
    ),
    "image_id_twice": ("error", "two images with the same id"),
    "file_name_twice": (
        "error",
        "two images with the same file: the boxes of one are background in the other",
    ),
    "annotation_id_twice": ("error", "detectron2 and the COCO evaluation need unique ids"),
    "category_id_twice": ("error", "two categories with the same id"),
    "category_name_twice": ("warning", "two categories with the same name are two classes"),
    "unknown_image": ("error", "an annotation of an image that does not exist"),
    "unknown_category": ("error", "an annotation of a category that does not exist"),
    "area_or_iscrowd": ("error", "no area >= 0, or iscrowd not 0 or 1: the COCO evaluation stops"),
    "ignore_set": ("error", "detectron2 stops where `ignore` is not 0: use iscrowd"),
    "annotation_id_zero": ("warning", "the COCO evaluation counts a match with this id as a miss"),
    "box_not_finite": ("error", "a box with NaN or infinity"),
    "box_empty": ("error", "a box whose width or height is zero or negative"),
    "box_outside": ("error", "a box outside its image"),
    "box_over_border": ("warning", "a box that exceeds its image; training clips it"),
    "box_tiny": ("warning", "a box below 1 pixel once the image is resized"),
    "box_without_location": (
        "warning",
        "a box without a positive FCOS location at this input size: too small, or covered by "
        "other boxes",
    ),
    "category_names_differ": ("error", "class i has different names in train and val"),
    "category_ids_differ": ("warning", "same classes with different ids in train and val"),
    "category_order_differs": ("info", "same categories in a different order; harmless"),
    "same_picture_in_val": ("error", "the same content in train and val: val measures memory"),
    "same_name_in_val": ("warning", "the same file name in train and val with different contents"),
    "content_twice": ("warning", "the same content under several names"),
    "exif_ambiguous": (
        "warning",
        "the EXIF tag rotates or mirrors the image when it is read, and the size cannot show it: "
        "make sure that the boxes belong to the image after rotation",
    ),
    "class_without_boxes": ("warning", "a class without boxes: nothing to learn or to measure"),
    "image_without_boxes": ("info", "left out of training by DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
}
_SEVERITIES = ("error", "warning", "info")

_MAX_EXAMPLES = 20


class Example(NamedTuple):
    """One case of a finding.

    Attributes:
        text: description with the names of the split and the image.
        path: path of the image, if there is one.
        box: x1, y1, x2, y2 in pixels of the image, if there is one.
    """

    text: str
    path: Path | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Finding:
    """All cases of one kind of fault.

    Attributes:
        kind: one of :data:`KINDS`.
        severity: "error", "warning" or "info".
        count: number of cases.
        examples: the first 20 cases.
    """

    kind: str
    severity: str
    count: int
    examples: tuple[Example, ...]


class Collector:
    """Counter of cases that keeps the first examples of each kind."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[Example]] = defaultdict(list)

    def add(self, kind: str, text: str, path: Path | None = None, box=None) -> None:
        self.counts[kind] += 1
        if len(self.examples[kind]) < _MAX_EXAMPLES:
            self.examples[kind].append(Example(text, path, box))

    def result(self) -> list[Finding]:
        findings = [
            Finding(kind, severity, self.counts[kind], tuple(self.examples[kind]))
            for kind, (severity, _) in KINDS.items()
            if self.counts[kind]
        ]
        return sorted(findings, key=lambda finding: _SEVERITIES.index(finding.severity))
