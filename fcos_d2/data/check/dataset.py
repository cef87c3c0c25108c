"""What is wrong with a data set, found before hours of training are lost on it."""

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
from ..datasets.files import CocoData, shown_size
from .findings import Collector, Finding
from .learnable import InputRule, resize_scale, unowned_boxes

__all__ = ["FileFacts", "check_dataset", "inspect_image"]

# Pixels by which a box may leave its image: coordinates are often rounded.
_BORDER = 0.5


def check_dataset(
    train: CocoData,
    val: CocoData | None = None,
    *,
    rule: InputRule | None = None,
    fast: bool = False,
    progress: bool = False,
) -> list[Finding]:
    """Look for everything in :data:`~fcos_d2.data.findings.KINDS`.

    Args:
        train: as :func:`~fcos_d2.data.coco.load_coco` and its neighbours return it.
        val: checked like ``train``, and compared with it.
        rule: how images are resized and boxes assigned.
        fast: read only the headers of images, which does not find truncated ones.
        progress: show bars on a terminal.

    Returns:
        What was found, errors first; empty for a faultless data set.
    """
    found, rule = Collector(), rule or InputRule()
    sets = {"train": train} if val is None else {"train": train, "val": val}
    for label, data in sets.items():
        part = _Part(label, data, found)
        _check_ids(part)
        _check_fields(part)
        _check_files(part, fast, progress)
        usable = _check_boxes(part, rule)
        _check_locations(part, rule, usable, progress)
        _check_classes(part)
    _check_contents(sets, found, progress)
    if val is not None:
        _check_categories(train.content["categories"], val.content["categories"], found)
    return found.result()


class _Part:
    """Train or val, with its images by id, and where to report."""

    def __init__(self, label: str, data: CocoData, found: Collector):
        self.label, self.data, self.found = label, data, found
        self.images, self.annotations, self.categories = (
            data.content[key] for key in ("images", "annotations", "categories")
        )
        self.by_id = {image["id"]: image for image in self.images}

    def path(self, image: Mapping) -> Path:
        return self.data.image_root / image["file_name"]

    def add(self, kind: str, text: str, image: Mapping | None = None, box=None) -> None:
        if image is None:
            self.found.add(kind, f"{self.label}: {text}")
        else:
            text = f"{self.label} {image['file_name']}: {text}"
            self.found.add(kind, text, self.path(image), box)


def _check_ids(part: _Part) -> None:
    for kind, rows, key in (
        ("image_id_twice", part.images, "id"),
        ("file_name_twice", part.images, "file_name"),
        ("annotation_id_twice", part.annotations, "id"),
        ("category_id_twice", part.categories, "id"),
        ("category_name_twice", part.categories, "name"),
    ):
        for value, count in Counter(row[key] for row in rows).items():
            if count > 1:
                part.add(kind, f"{key} {value}, {count} times")
    known = {category["id"] for category in part.categories}
    for annotation in part.annotations:
        if annotation["image_id"] not in part.by_id:
            part.add(
                "unknown_image", f"annotation {annotation['id']}, image {annotation['image_id']}"
            )
        if annotation["category_id"] not in known:
            text = f"annotation {annotation['id']}, category {annotation['category_id']}"
            part.add("unknown_category", text)


def _check_fields(part: _Part) -> None:
    """What reading and evaluating need besides the box."""
    for annotation in part.annotations:
        area, iscrowd = annotation.get("area"), annotation.get("iscrowd")
        text = f"annotation {annotation['id']}"
        if not (isinstance(area, (int, float)) and area >= 0) or iscrowd not in (0, 1):
            part.add("area_or_iscrowd", f"{text}, area {area!r}, iscrowd {iscrowd!r}")
        if annotation.get("ignore", 0) != 0:
            part.add("ignore_set", f"{text}, ignore {annotation['ignore']!r}")
        if annotation["id"] == 0:
            part.add("annotation_id_zero", text)


# ---- files


def _check_files(part: _Part, fast: bool, progress: bool) -> None:
    paths = [part.path(image) for image in part.images]
    facts = _in_threads(
        _inspect_header if fast else inspect_image, paths, f"{part.label} images", progress
    )
    for image, (fault, size, orientation) in zip(part.images, facts, strict=True):
        expected = (image["width"], image["height"])
        if fault is not None:
            part.add(*fault, image)
        elif size == expected:
            # 2 to 4 keep the size, and so do all in a square
            if orientation != 1 and (orientation <= 4 or size[0] == size[1]):
                part.add("exif_ambiguous", f"orientation {orientation}", image)
        elif orientation >= 5 and size == expected[::-1]:
            text = f"read as {size[0]} x {size[1]}, JSON {expected[0]} x {expected[1]}"
            part.add("exif_rotation", text, image)
        else:
            text = f"{size[0]} x {size[1]}, JSON {expected[0]} x {expected[1]}"
            part.add("size_differs", text, image)


class FileFacts(NamedTuple):
    """What a file tells of itself; with a fault, the rest is not known."""

    fault: tuple[str, str] | None = None  # kind and text
    size: tuple[int, int] = (0, 0)  # width, height
    orientation: int = 1


def inspect_image(path: Path, decode: bool = True) -> FileFacts:
    """Size, orientation and faults of an image file; a truncated one shows only by decoding it."""
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            *size, orientation = shown_size(image)
    except FileNotFoundError:
        return FileFacts(("image_missing", f"no {path}"))
    # Pillow raises whatever its decoders do: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        return FileFacts(("image_unreadable", " ".join(str(error).split())))
    return FileFacts(None, tuple(size), orientation)


def _inspect_header(path: Path) -> FileFacts:
    return inspect_image(path, decode=False)


def _in_threads(function: Callable, items: Sequence, what: str, progress: bool) -> list:
    """Results in order; decoding, hashing and torch leave Python's lock to others."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about single files
        hidden = None if progress else True  # None: shown on a terminal only
        results = pool.map(function, items)
        return list(tqdm(results, what, len(items), leave=False, disable=hidden))


def _check_contents(sets: Mapping[str, CocoData], found: Collector, progress: bool) -> None:
    """Pictures that are there twice, by file name between the sets and by content everywhere."""
    places = {}  # path -> [(set, file name)], without repetitions within a set
    for label, data in sets.items():
        for name in dict.fromkeys(image["file_name"] for image in data.content["images"]):
            path = data.image_root / name
            if os.path.isfile(path):  # also False for names that no file can have
                places.setdefault(path.resolve(), []).append((label, name))
    same = _same_contents(places, progress)
    for group in same:
        uses = [(label, name, path) for path in group for label, name in places[path]]
        text = " = ".join(f"{label} {name}" for label, name, _ in uses)
        kind = "same_picture_in_val" if len({use[0] for use in uses}) > 1 else "content_twice"
        found.add(kind, text, uses[0][2])
    if len(sets) > 1:
        reported = {path for group in same for path in group}
        _check_names(places, reported, found)


def _same_contents(places: Mapping[Path, list], progress: bool) -> list[list[Path]]:
    """Groups of files of equal content, and single files that are in both sets."""
    sizes = {path: path.stat().st_size for path in places}
    counts = Counter(sizes.values())
    twins = [path for path, size in sizes.items() if counts[size] > 1]
    digests = dict(zip(twins, _in_threads(file_sha256, twins, "hashes", progress)))
    groups = defaultdict(list)
    for path in places:
        groups[digests.get(path, path)].append(path)
    return [group for group in groups.values() if sum(len(places[path]) for path in group) > 1]


def _check_names(places: Mapping[Path, list], reported: set[Path], found: Collector) -> None:
    names = {"train": {}, "val": {}}
    for path, uses in places.items():
        for label, name in uses:
            names[label].setdefault(name, path)
    for name, path in names["train"].items():
        if name in names["val"] and not {path, names["val"][name]} <= reported:
            found.add("same_name_in_val", name, path)


# ---- boxes


def _check_boxes(part: _Part, rule: InputRule) -> np.ndarray:
    """Reports bad boxes; returns (A,) bool, those of which something can be learned."""
    xywh = np.array([a["bbox"] for a in part.annotations], dtype=np.float64).reshape(-1, 4)
    images = [part.by_id.get(annotation["image_id"]) for annotation in part.annotations]
    size = [(i["width"], i["height"]) if i else (np.inf, np.inf) for i in images]
    size = np.array(size, dtype=np.float64).reshape(-1, 2)
    scale = np.array([resize_scale(rule, i["width"], i["height"]) if i else (1, 1) for i in images])
    with np.errstate(invalid="ignore", over="ignore"):
        low, side = xywh[:, :2], xywh[:, 2:]
        high = low + side
        finite = np.isfinite(xywh).all(1) & np.isfinite(high).all(1)
        empty = finite & (side <= 0).any(1)
        outside = finite & ~empty & ((low >= size) | (high <= 0)).any(1)
        usable = finite & ~empty & ~outside
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
            _add_box(part, kind, part.annotations[i])
    return usable


def _add_box(part: _Part, kind: str, annotation: Mapping) -> None:
    image = part.by_id.get(annotation["image_id"])
    x, y, width, height = annotation["bbox"]
    text = f"annotation {annotation['id']}, box {json.dumps(annotation['bbox'])}"
    if image is not None:
        text += f", image {image['width']} x {image['height']}"
    part.add(kind, text, image, (x, y, x + width, y + height))


def _check_locations(part: _Part, rule: InputRule, usable: np.ndarray, progress: bool) -> None:
    per_image = defaultdict(list)
    for annotation, good in zip(part.annotations, usable, strict=True):
        if good and annotation["image_id"] in part.by_id and not annotation.get("iscrowd", 0):
            per_image[annotation["image_id"]].append(annotation)

    def unowned(image_id: int) -> list[int]:
        image = part.by_id[image_id]
        boxes = torch.tensor([a["bbox"] for a in per_image[image_id]], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        return unowned_boxes(boxes, (image["width"], image["height"]), rule)

    indices = _in_threads(unowned, list(per_image), f"{part.label} locations", progress)
    for annotations, missed in zip(per_image.values(), indices, strict=True):
        for i in missed:
            _add_box(part, "box_without_location", annotations[i])


# ---- classes


def _check_classes(part: _Part) -> None:
    used = Counter(annotation["category_id"] for annotation in part.annotations)
    for category in part.categories:
        if not used[category["id"]]:
            part.add("class_without_boxes", f"{category['name']} (id {category['id']})")
    with_boxes = {annotation["image_id"] for annotation in part.annotations}
    for image in part.images:
        if image["id"] not in with_boxes:
            part.add("image_without_boxes", "no annotation", image)


def _check_categories(train: list[dict], val: list[dict], found: Collector) -> None:
    pairs = [[(c["id"], c["name"]) for c in categories] for categories in (train, val)]
    if pairs[0] == pairs[1]:
        return
    # detectron2 numbers the classes by their ids, whatever these are.
    ordered = [sorted(p) for p in pairs]
    if ordered[0] == ordered[1]:
        found.add("category_order_differs", f"train {pairs[0]}, val {pairs[1]}")
        return
    length = max(map(len, ordered))
    for i, (left, right) in enumerate(zip(*[p + [None] * (length - len(p)) for p in ordered])):
        text = f"class {i} is {_category(left)} in train, {_category(right)} in val"
        if left is None or right is None or left[1] != right[1]:
            found.add("category_names_differ", text)
        elif left[0] != right[0]:
            found.add("category_ids_differ", text)


def _category(pair: tuple[int, str] | None) -> str:
    return "nothing" if pair is None else f"{pair[1]} (id {pair[0]})"
