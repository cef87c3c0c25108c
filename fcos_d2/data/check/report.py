"""Findings about a dataset as tables and images."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.data.detection_utils import read_image
from PIL import Image
from tabulate import tabulate

from ...utils.visualize import DETECTION_COLOR, draw_boxes
from ..datasets.files import CocoData
from .dataset import inspect_image
from .findings import KINDS, Finding

__all__ = ["class_table", "findings_table", "save_images"]


def findings_table(findings: Sequence[Finding], examples: int = 3) -> str:
    """Table of the findings with their first examples, and the meaning of each kind.

    Args:
        findings: result of :func:`~fcos_d2.data.check.dataset.check_dataset`.
        examples: largest number of examples per finding.
    """
    if not findings:
        return "Nothing found"
    rows = []
    for finding in findings:
        lines = [example.text for example in finding.examples[:examples]]
        if finding.count > len(lines):
            lines.append(f"... {finding.count - len(lines)} more")
        rows.append([finding.severity, finding.kind, finding.count, "\n".join(lines)])
    table = tabulate(rows, headers=("severity", "kind", "count", "examples"), tablefmt="simple")
    meanings = [f"{finding.kind}: {KINDS[finding.kind][1]}" for finding in findings]
    return "\n".join([table, "", *meanings])


def class_table(train: CocoData, val: CocoData | None = None) -> str:
    """Table of the classes: number of boxes, and number of images with such boxes."""
    datasets = {"train": train} if val is None else {"train": train, "val": val}
    categories = sorted(
        {(c["id"], c["name"]) for data in datasets.values() for c in data.content["categories"]}
    )
    columns = []
    for data in datasets.values():
        present = {(c["id"], c["name"]) for c in data.content["categories"]}
        pairs = [(a["category_id"], a["image_id"]) for a in data.content["annotations"]]
        boxes, images = Counter(p[0] for p in pairs), Counter(p[0] for p in set(pairs))
        for counts in (boxes, images):
            columns.append([counts[c[0]] if c in present else "" for c in categories])
    headers = [
        "id",
        "class",
        *(f"{split} {unit}" for split in datasets for unit in ("boxes", "images")),
    ]
    rows = [[*category, *counts] for category, *counts in zip(categories, *columns)]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=[1])


def save_images(findings: Sequence[Finding], folder: str | os.PathLike) -> int:
    """Save the images of the examples as ``<kind>-<number>-<name>.png``, with the bad boxes.

    Boxes are drawn at least 4 pixels wide; boxes outside the image are drawn at its border.
    Unreadable images are left out: they are findings themselves.

    Args:
        findings: result of :func:`~fcos_d2.data.check.dataset.check_dataset`.
        folder: folder of the images; created if needed.

    Returns:
        Number of saved images.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    saved = 0
    for finding in findings:
        boxes: dict[Path, list] = defaultdict(list)
        for example in finding.examples:
            if example.path is not None:
                boxes[example.path] += [] if example.box is None else [example.box]
        for number, (path, bad_boxes) in enumerate(boxes.items(), start=1):
            if inspect_image(path).fault is None:
                name = f"{finding.kind}-{number:02d}-{path.stem}.png"
                _draw(path, bad_boxes).save(Path(folder, name))
                saved += 1
    return saved


def _draw(path: Path, boxes: Sequence[tuple]) -> Image.Image:
    pixels = torch.from_numpy(read_image(str(path), "RGB").copy()).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    corners = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)
    corners = corners[corners.isfinite().all(dim=1)]
    low, high = torch.minimum(corners[:, :2], corners[:, 2:]), corners[:, 2:]
    limit = torch.tensor([width, height], dtype=corners.dtype) - 1
    low = torch.minimum(low.clamp(min=0), (limit - 4).clamp(min=0))
    high = torch.minimum(torch.maximum(high, low + 4), limit)
    drawn = draw_boxes(pixels, torch.cat((low, high), dim=1), DETECTION_COLOR)
    return Image.fromarray(drawn.permute(1, 2, 0).numpy())
