"""Check of a dataset for faults, before hours of training are lost on it."""

import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ...utils.files import file_sha256
from ..datasets.files import CocoData, displayed_size
from .findings import Collector, Finding
from .learnable import InputRule, boxes_without_positive, resize_scale

__all__ = ["FileFacts", "check_dataset", "inspect_image"]

# Pixels by which a box may exceed its image, because coordinates are often rounded.
_BORDER = 0.5


def check_dataset(
    train: CocoData,
    val: CocoData | None = None,
    *,
    rule: InputRule | None = None,
    fast: bool = False,
    progress: bool = False,
) -> list[Finding]:
    """Check a dataset for every fault in :data:`~fcos_d2.data.check.findings.KINDS`.

    Args:
        train: training data, such as from :func:`~fcos_d2.data.datasets.coco.load_coco`.
        val: validation data; checked like ``train`` and compared with it.
        rule: resizing of the images and assignment of the boxes.
        fast: read only the headers of images; truncated images are not found.
        progress: show progress bars on a terminal.

    Returns:
        Findings, errors first; empty for a dataset without faults.
    """
    collector, rule = Collector(), rule or InputRule()
    datasets = {"train": train} if val is None else {"train": train, "val": val}
    for name, data in datasets.items():
        split = _Split(name, data, collector)
        _check_ids(split)
        _check_fields(split)
        _check_files(split, fast, progress)
        usable = _check_boxes(split, rule)
        _check_locations(split, rule, usable, progress)
        _check_classes(split)
    _check_contents(datasets, collector, progress)
    if val is not None:
        _check_categories(train.content["categories"], val.content["categories"], collector)
    return collector.result()


class _Split:
    """Training or validation data with its images by id; reports findings with its name."""

    def __init__(self, name: str, data: CocoData, collector: Collector):
        self.name, self.data, self.collector = name, data, collector
        self.images, self.annotations, self.categories = (
            data.content[key] for key in ("images", "annotations", "categories")
        )
        self.by_id = {image["id"]: image for image in self.images}

    def path(self, image: Mapping) -> Path:
        return self.data.image_root / image["file_name"]

    def add(self, kind: str, text: str, image: Mapping | None = None, box=None) -> None:
        if image is None:
            self.collector.add(kind, f"{self.name}: {text}")
        else:
            text = f"{self.name} {image['file_name']}: {text}"
            self.collector.add(kind, text, self.path(image), box)


def _check_ids(split: _Split) -> None:
    for kind, rows, key in (
        ("image_id_twice", split.images, "id"),
        ("file_name_twice", split.images, "file_name"),
        ("annotation_id_twice", split.annotations, "id"),
        ("category_id_twice", split.categories, "id"),
        ("category_name_twice", split.categories, "name"),
    ):
        for value, count in Counter(row[key] for row in rows).items():
            if count > 1:
                split.add(kind, f"{key} {value}, {count} times")
    known = {category["id"] for category in split.categories}
    for annotation in split.annotations:
        if annotation["image_id"] not in split.by_id:
            split.add(
                "unknown_image", f"annotation {annotation['id']}, image {annotation['image_id']}"
            )
        if annotation["category_id"] not in known:
            text = f"annotation {annotation['id']}, category {annotation['category_id']}"
            split.add("unknown_category", text)


def _check_fields(split: _Split) -> None:
    """Check the fields besides the box that detectron2 and the COCO evaluation read."""
    for annotation in split.annotations:
        area, iscrowd = annotation.get("area"), annotation.get("iscrowd")
        text = f"annotation {annotation['id']}"
        if not (isinstance(area, (int, float)) and area >= 0) or iscrowd not in (0, 1):
            split.add("area_or_iscrowd", f"{text}, area {area!r}, iscrowd {iscrowd!r}")
        if annotation.get("ignore", 0) != 0:
            split.add("ignore_set", f"{text}, ignore {annotation['ignore']!r}")
        if annotation["id"] == 0:
            split.add("annotation_id_zero", text)


# ---- files


def _check_files(split: _Split, fast: bool, progress: bool) -> None:
    paths = [split.path(image) for image in split.images]
    facts = _in_threads(
        _inspect_header if fast else inspect_image, paths, f"{split.name} images", progress
    )
    for image, (fault, size, orientation) in zip(split.images, facts, strict=True):
        expected = (image["width"], image["height"])
        if fault is not None:
            kind, text = fault
            split.add(kind, text, image)
        elif size == expected:
            # orientations 2 to 4 keep the size; in a square all orientations do
            if orientation != 1 and (orientation <= 4 or size[0] == size[1]):
                split.add("exif_ambiguous", f"orientation {orientation}", image)
        elif orientation >= 5 and size == expected[::-1]:
            text = f"read as {size[0]} x {size[1]}, JSON {expected[0]} x {expected[1]}"
            split.add("exif_rotation", text, image)
        else:
            text = f"{size[0]} x {size[1]}, JSON {expected[0]} x {expected[1]}"
            split.add("size_differs", text, image)


class FileFacts(NamedTuple):
    """Properties of an image file.

    Attributes:
        fault: kind and text of a fault; the other attributes are then unknown. None: no fault.
        size: (width, height) in pixels, after EXIF rotation.
        orientation: EXIF orientation, from 1 to 8.
    """

    fault: tuple[str, str] | None = None
    size: tuple[int, int] = (0, 0)
    orientation: int = 1


def inspect_image(path: Path, decode: bool = True) -> FileFacts:
    """Size, orientation and faults of an image file.

    Args:
        path: path of the file.
        decode: decode all pixels, which finds truncated files.
    """
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            width, height, orientation = displayed_size(image)
    except FileNotFoundError:
        return FileFacts(("image_missing", f"no {path}"))
    # Decoders of Pillow raise OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        return FileFacts(("image_unreadable", " ".join(str(error).split())))
    return FileFacts(None, (width, height), orientation)


def _inspect_header(path: Path) -> FileFacts:
    return inspect_image(path, decode=False)


def _in_threads(function: Callable, items: Sequence, label: str, progress: bool) -> list:
    """Ordered results of function(item); decoding, hashing and torch release Python's lock."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about single files
        hidden = None if progress else True  # None: shown on a terminal only
        results = pool.map(function, items)
        return list(tqdm(results, label, len(items), leave=False, disable=hidden))


def _check_contents(datasets: Mapping[str, CocoData], collector: Collector, progress: bool) -> None:
    """Report equal files anywhere, and equal file names in train and val."""
    uses: dict[Path, list] = {}  # path -> [(split, file name)], without repetitions within a split
    for split, data in datasets.items():
        for name in dict.fromkeys(image["file_name"] for image in data.content["images"]):
            path = data.image_root / name
            if os.path.isfile(path):  # False, too, for names that the file system refuses
                uses.setdefault(path.resolve(), []).append((split, name))
    duplicates = _find_duplicates(uses, progress)
    for group in duplicates:
        group_uses = [use for path in group for use in uses[path]]
        text = " = ".join(f"{split} {name}" for split, name in group_uses)
        in_both = len({split for split, _ in group_uses}) > 1
        collector.add("same_picture_in_val" if in_both else "content_twice", text, group[0])
    if len(datasets) > 1:
        reported = {path for group in duplicates for path in group}
        _check_names(uses, reported, collector)


def _find_duplicates(uses: Mapping[Path, list], progress: bool) -> list[list[Path]]:
    """Groups of files with equal content, and single files that both splits use."""
    sizes = {path: path.stat().st_size for path in uses}
    counts = Counter(sizes.values())
    candidates = [path for path, size in sizes.items() if counts[size] > 1]
    digests = dict(zip(candidates, _in_threads(file_sha256, candidates, "hashes", progress)))
    groups = defaultdict(list)
    for path in uses:
        groups[digests.get(path, path)].append(path)
    return [group for group in groups.values() if sum(len(uses[path]) for path in group) > 1]


def _check_names(uses: Mapping[Path, list], reported: set[Path], collector: Collector) -> None:
    names: dict[str, dict[str, Path]] = {"train": {}, "val": {}}
    for path, path_uses in uses.items():
        for split, name in path_uses:
            names[split].setdefault(name, path)
    for name, path in names["train"].items():
        if name in names["val"] and not {path, names["val"][name]} <= reported:
            collector.add("same_name_in_val", name, path)


# ---- boxes


def _check_boxes(split: _Split, rule: InputRule) -> np.ndarray:
    """Report bad boxes; returns a mask (A,) of the boxes that training can use."""
    xywh = np.array([a["bbox"] for a in split.annotations], dtype=np.float64).reshape(-1, 4)
    images = [split.by_id.get(annotation["image_id"]) for annotation in split.annotations]
    sizes = [(i["width"], i["height"]) if i else (np.inf, np.inf) for i in images]
    size = np.array(sizes, dtype=np.float64).reshape(-1, 2)
    scale = np.array([resize_scale(rule, i["width"], i["height"]) if i else (1, 1) for i in images])
    with np.errstate(invalid="ignore", over="ignore"):
        low, side = xywh[:, :2], xywh[:, 2:]
        high = low + side
        finite = np.isfinite(xywh).all(1) & np.isfinite(high).all(1)
        empty = finite & (side <= 0).any(1)
        outside = finite & ~empty & ((low >= size) | (high <= 0)).any(1)
        usable = np.asarray(finite & ~empty & ~outside)
        over = usable & ((low < -_BORDER) | (high > size + _BORDER)).any(1)
        tiny = usable & (side * scale.reshape(-1, 2) < 1).any(1)
    for kind, mask in (
        ("box_not_finite", ~finite),
        ("box_empty", empty),
        ("box_outside", outside),
        ("box_over_border", over),
        ("box_tiny", tiny),
    ):
        for i in np.flatnonzero(mask):
            _add_box(split, kind, split.annotations[i])
    return usable


def _add_box(split: _Split, kind: str, annotation: Mapping) -> None:
    image = split.by_id.get(annotation["image_id"])
    x, y, width, height = annotation["bbox"]
    text = f"annotation {annotation['id']}, box {json.dumps(annotation['bbox'])}"
    if image is not None:
        text += f", image {image['width']} x {image['height']}"
    split.add(kind, text, image, (x, y, x + width, y + height))


def _check_locations(split: _Split, rule: InputRule, usable: np.ndarray, progress: bool) -> None:
    per_image = defaultdict(list)
    for annotation, is_usable in zip(split.annotations, usable, strict=True):
        if is_usable and annotation["image_id"] in split.by_id and not annotation.get("iscrowd", 0):
            per_image[annotation["image_id"]].append(annotation)

    def find_missed(image_id: int) -> list[int]:
        image = split.by_id[image_id]
        boxes = torch.tensor([a["bbox"] for a in per_image[image_id]], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        return boxes_without_positive(boxes, (image["width"], image["height"]), rule)

    indices = _in_threads(find_missed, list(per_image), f"{split.name} locations", progress)
    for annotations, missed in zip(per_image.values(), indices, strict=True):
        for i in missed:
            _add_box(split, "box_without_location", annotations[i])


# ---- classes


def _check_classes(split: _Split) -> None:
    used = Counter(annotation["category_id"] for annotation in split.annotations)
    for category in split.categories:
        if not used[category["id"]]:
            split.add("class_without_boxes", f"{category['name']} (id {category['id']})")
    with_boxes = {annotation["image_id"] for annotation in split.annotations}
    for image in split.images:
        if image["id"] not in with_boxes:
            split.add("image_without_boxes", "no annotation", image)


def _check_categories(train: list[dict], val: list[dict], collector: Collector) -> None:
    pairs = [[(c["id"], c["name"]) for c in categories] for categories in (train, val)]
    if pairs[0] == pairs[1]:
        return
    # detectron2 orders the classes by their category ids.
    ordered = [sorted(p) for p in pairs]
    if ordered[0] == ordered[1]:
        collector.add("category_order_differs", f"train {pairs[0]}, val {pairs[1]}")
        return
    length = max(map(len, ordered))
    for i, (left, right) in enumerate(zip(*[p + [None] * (length - len(p)) for p in ordered])):
        text = f"class {i} is {_category(left)} in train, {_category(right)} in val"
        if left is None or right is None or left[1] != right[1]:
            collector.add("category_names_differ", text)
        elif left[0] != right[0]:
            collector.add("category_ids_differ", text)


def _category(pair: tuple[int, str] | None) -> str:
    return "nothing" if pair is None else f"{pair[1]} (id {pair[0]})"
