"""What is wrong with a data set, found before hours of training are lost on it."""

import json
import os
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from detectron2.data.detection_utils import read_image
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image
from tabulate import tabulate
from tqdm import tqdm

from ..config import get_cfg
from ..model_zoo import get_config_file
from ..modeling.assignment import assign_image
from ..modeling.locations import make_locations, size_ranges
from ..modeling.visualize import DETECTION_COLOR, draw_boxes
from .fetch import file_sha256
from .formats import CocoData, shown_size

__all__ = [
    "KINDS",
    "Example",
    "Finding",
    "InputRule",
    "check_dataset",
    "class_table",
    "findings_table",
    "input_rule",
    "save_pictures",
]

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

# Pixels by which a box may leave its image: coordinates are often rounded.
_BORDER = 0.5
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


@dataclass(frozen=True)
class InputRule:
    """How images come to the network, and which of its locations learn which boxes.

    Attributes:
        min_size: of the shorter side in pixels; 0 leaves the size as it is.
        max_size: of the longer side in pixels.
        strides: of the levels, fine to coarse.
        sizes_of_interest: see :func:`~fcos_d2.modeling.locations.size_ranges`.
        center_radius, plus_one_area, exclusive_ranges: of ``assign_image``.
        grid_locations: see :class:`~fcos_d2.modeling.compat.Compat`.
        divisor: image sides are padded to its multiples.
    """

    min_size: int = 800
    max_size: int = 1333
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    sizes_of_interest: tuple[float, ...] = (64, 128, 256, 512)
    center_radius: float | None = 1.5
    plus_one_area: bool = False
    exclusive_ranges: bool = False
    grid_locations: bool = False
    divisor: int = 32

    def resized(self, width: float, height: float) -> tuple[int, int]:
        """Width and height after detectron2's ``ResizeShortestEdge``."""
        if self.min_size == 0:
            return int(width), int(height)
        shape = ResizeShortestEdge.get_output_shape(height, width, self.min_size, self.max_size)
        return max(shape[1], 1), max(shape[0], 1)


def input_rule(
    config: str = "fcos_R_50_FPN_1x.yaml", *, min_size: int | None = None, max_size=None
) -> InputRule:
    """The rule of a config's test images.

    Args:
        config: as :func:`~fcos_d2.model_zoo.get_config_file` takes it.
        min_size: instead of INPUT.MIN_SIZE_TEST, in pixels.
        max_size: instead of INPUT.MAX_SIZE_TEST, in pixels.

    Raises:
        FileNotFoundError: for an unknown config.
        KeyError, ValueError: for a config that cannot be read, or impossible values.
    """
    cfg = get_cfg()
    path = get_config_file(config)
    try:
        cfg.merge_from_file(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    fcos, compat = cfg.MODEL.FCOS, cfg.MODEL.FCOS.COMPAT
    min_size = cfg.INPUT.MIN_SIZE_TEST if min_size is None else min_size
    max_size = cfg.INPUT.MAX_SIZE_TEST if max_size is None else max_size
    if min_size < 0 or max_size < max(min_size, 1):
        raise ValueError(f"expected 0 <= min size <= max size, got {min_size} and {max_size}")
    size_ranges(fcos.SIZES_OF_INTEREST, len(fcos.IN_FEATURES))  # explains what does not fit
    return InputRule(
        min_size=min_size,
        max_size=max_size,
        strides=tuple(map(_stride, fcos.IN_FEATURES)),
        sizes_of_interest=tuple(fcos.SIZES_OF_INTEREST),
        center_radius=fcos.POS_RADIUS if fcos.CENTER_SAMPLE else None,
        plus_one_area=compat.ONE_PIXEL_BOXES,
        exclusive_ranges=compat.EXCLUSIVE_RANGES,
        grid_locations=compat.GRID_LOCATIONS,
    )


def _stride(feature: str) -> int:
    if not (feature[0] == "p" and feature[1:].isdecimal()):
        raise ValueError(f"the stride of MODEL.FCOS.IN_FEATURES {feature!r} is unknown: no p3, ...")
    return 2 ** int(feature[1:])  # as detectron2's FPN names them


def check_dataset(
    train: CocoData,
    val: CocoData | None = None,
    *,
    rule: InputRule | None = None,
    fast: bool = False,
    progress: bool = False,
) -> list[Finding]:
    """Look for everything in :data:`KINDS`.

    Args:
        train: as :func:`~fcos_d2.data.formats.load_coco` and its neighbours return it.
        val: checked like ``train``, and compared with it.
        rule: how images are resized and boxes assigned.
        fast: read only the headers of images, which does not find truncated ones.
        progress: show bars on a terminal.

    Returns:
        What was found, errors first; empty for a faultless data set.
    """
    found, rule = _Collector(), rule or InputRule()
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


class _Collector:
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


class _Part:
    """Train or val, with its images by id, and where to report."""

    def __init__(self, label: str, data: CocoData, found: _Collector):
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
        _inspect_fast if fast else _inspect, paths, f"{part.label} images", progress
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


class _FileFacts(NamedTuple):
    fault: tuple[str, str] | None = None  # kind and text
    size: tuple[int, int] = (0, 0)  # width, height
    orientation: int = 1


def _inspect(path: Path, decode: bool = True) -> _FileFacts:
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            *size, orientation = shown_size(image)
    except FileNotFoundError:
        return _FileFacts(("image_missing", f"no {path}"))
    # Pillow raises whatever its decoders do: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        return _FileFacts(("image_unreadable", " ".join(str(error).split())))
    return _FileFacts(None, tuple(size), orientation)


def _inspect_fast(path: Path) -> _FileFacts:
    return _inspect(path, decode=False)


def _in_threads(function: Callable, items: Sequence, what: str, progress: bool) -> list:
    """Results in order; decoding, hashing and torch leave Python's lock to others."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about single files
        hidden = None if progress else True  # None: shown on a terminal only
        results = pool.map(function, items)
        return list(tqdm(results, what, len(items), leave=False, disable=hidden))


def _check_contents(sets: Mapping[str, CocoData], found: _Collector, progress: bool) -> None:
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


def _check_names(places: Mapping[Path, list], reported: set[Path], found: _Collector) -> None:
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
    scale = np.array([_scale(rule, i["width"], i["height"]) if i else (1, 1) for i in images])
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


@lru_cache(maxsize=4096)
def _scale(rule: InputRule, width: float, height: float) -> tuple[float, float]:
    new_width, new_height = rule.resized(width, height)
    return new_width / width, new_height / height


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
        return _unowned(boxes, (image["width"], image["height"]), rule)

    indices = _in_threads(unowned, list(per_image), f"{part.label} locations", progress)
    for annotations, missed in zip(per_image.values(), indices, strict=True):
        for i in missed:
            _add_box(part, "box_without_location", annotations[i])


def _unowned(boxes: torch.Tensor, size: tuple[int, int], rule: InputRule) -> list[int]:
    """Indices of boxes, (M, 4) x1, y1, x2, y2 in pixels of the image, that no location learns."""
    limit = torch.tensor([*size, *size], dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    boxes = (boxes * torch.tensor(_scale(rule, *size) * 2, dtype=boxes.dtype)).float()
    points, strides, ranges = _locations(rule, *rule.resized(*size))
    matched = assign_image(
        points,
        strides,
        ranges,
        boxes,
        center_radius=rule.center_radius,
        plus_one_area=rule.plus_one_area,
        exclusive_ranges=rule.exclusive_ranges,
    )
    return sorted(set(range(len(boxes))) - set(matched.unique().tolist()))


def _locations(rule: InputRule, width: int, height: int):
    """Points, strides and size ranges of all locations of an image that is padded first."""
    padded = [-(-side // rule.divisor) * rule.divisor for side in (height, width)]
    return _padded_locations(rule, *padded)


@lru_cache(maxsize=64)
def _padded_locations(rule: InputRule, height: int, width: int):
    shapes = [(-(-height // stride), -(-width // stride)) for stride in rule.strides]
    divide = (height, width) if rule.grid_locations else None
    locations = make_locations(shapes, rule.strides, divide=divide)
    ranges = torch.tensor(size_ranges(rule.sizes_of_interest, len(rule.strides)))
    ranges = ranges.repeat_interleave(torch.tensor(locations.level_sizes), dim=0)
    return locations.points, locations.strides, ranges


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


def _check_categories(train: list[dict], val: list[dict], found: _Collector) -> None:
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


# ---- what to show


def findings_table(findings: Sequence[Finding], examples: int = 3) -> str:
    """A table of the findings with their first examples, and what each kind means."""
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
    """A table of the classes' frequencies: boxes, and images that have some."""
    sets = {"train": train} if val is None else {"train": train, "val": val}
    categories = sorted(
        {(c["id"], c["name"]) for data in sets.values() for c in data.content["categories"]}
    )
    columns = []
    for data in sets.values():
        own = {(c["id"], c["name"]) for c in data.content["categories"]}
        pairs = [(a["category_id"], a["image_id"]) for a in data.content["annotations"]]
        boxes, images = Counter(p[0] for p in pairs), Counter(p[0] for p in set(pairs))
        for counts in (boxes, images):
            columns.append([counts[c[0]] if c in own else "" for c in categories])
    headers = [
        "id",
        "class",
        *(f"{label} {what}" for label in sets for what in ("boxes", "images")),
    ]
    rows = [[*category, *counts] for category, *counts in zip(categories, *columns)]
    return tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=[1])


def save_pictures(findings: Sequence[Finding], folder: str | os.PathLike) -> int:
    """Save the examples' pictures as ``<kind>-<number>-<name>.png``, with the bad boxes drawn.

    Boxes are drawn at least 4 pixels wide and at the border if they are outside. Pictures that
    cannot be read, which are findings themselves, are left out.

    Returns:
        How many were saved.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    saved = 0
    for finding in findings:
        boxes = defaultdict(list)
        for example in finding.examples:
            if example.path is not None:
                boxes[example.path] += [] if example.box is None else [example.box]
        for number, (path, bad) in enumerate(boxes.items(), start=1):
            if _inspect(path).fault is None:
                picture = _draw(path, bad)
                picture.save(Path(folder, f"{finding.kind}-{number:02d}-{path.stem}.png"))
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
