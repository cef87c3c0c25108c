"""Everything that can be wrong with a data set, and the cases of it that were found."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

__all__ = ["KINDS", "Collector", "Example", "Finding"]

# Kind -> severity and what it means. An error stops training or makes its results wrong.
KINDS = {
    "image_missing": ("error", "the file is not in the image folder"),
    "image_unreadable": ("error", "no image, damaged or truncated: replace the file"),
    "size_differs": ("error", "width and height in the JSON are not those of the image"),
    "exif_rotation": (
        "error",
        "turned by its EXIF tag when read, but the JSON has the size before that: save it upright "
        "or swap width and height",
    ),
    "image_id_twice": ("error", "two images with one id"),
    "file_name_twice": (
        "error",
        "two images with one file: the boxes of each are background in the other",
    ),
    "annotation_id_twice": ("error", "detectron2 and COCO's evaluation want different ids"),
    "category_id_twice": ("error", "two categories with one id"),
    "category_name_twice": ("warning", "two categories with one name are two classes"),
    "unknown_image": ("error", "an annotation of an image that is not there"),
    "unknown_category": ("error", "an annotation of a category that is not there"),
    "area_or_iscrowd": ("error", "no area >= 0, or iscrowd not 0 or 1: COCO's evaluation stops"),
    "ignore_set": ("error", "detectron2 stops where `ignore` is not 0: use iscrowd"),
    "annotation_id_zero": ("warning", "COCO's evaluation takes a match with it for no match"),
    "box_not_finite": ("error", "a box with NaN or infinity"),
    "box_empty": ("error", "a box whose width or height is zero or negative"),
    "box_outside": ("error", "a box that is nowhere in its image"),
    "box_over_border": ("warning", "a box that leaves its image, and will be cut off there"),
    "box_tiny": ("warning", "a box below 1 pixel once the image is resized"),
    "box_without_location": (
        "warning",
        "a box that no FCOS location learns at this input size: too small, or covered by others",
    ),
    "category_names_differ": ("error", "class i means another thing in val than in train"),
    "category_ids_differ": ("warning", "same classes, with other ids in val than in train"),
    "category_order_differs": ("info", "same categories, listed in another order; harmless"),
    "same_picture_in_val": ("error", "one content in train and val: val measures memory"),
    "same_name_in_val": ("warning", "one file name in train and val, contents differ"),
    "content_twice": ("warning", "one content under several names"),
    "exif_ambiguous": (
        "warning",
        "turned or mirrored by its EXIF tag when read, which its size cannot tell: make sure that "
        "the boxes are of the turned image",
    ),
    "class_without_boxes": ("warning", "nothing to learn or to measure"),
    "image_without_boxes": ("info", "left out of training by DATALOADER.FILTER_EMPTY_ANNOTATIONS"),
}
_SEVERITIES = ("error", "warning", "info")

_MAX_EXAMPLES = 20


class Example(NamedTuple):
    """One case of a finding; ``box`` is x1, y1, x2, y2 in pixels of the image at ``path``."""

    text: str
    path: Path | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class Finding:
    """One kind of fault.

    Attributes:
        kind: one of :data:`KINDS`.
        severity: "error", "warning" or "info".
        count: how often.
        examples: the first 20.
    """

    kind: str
    severity: str
    count: int
    examples: tuple[Example, ...]


class Collector:
    """Counts what is added, and keeps the first examples."""

    def __init__(self):
        self.counts = Counter()
        self.examples = defaultdict(list)

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
