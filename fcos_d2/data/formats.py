"""Annotations of three formats, all read as the content of a COCO file: COCO, Pascal VOC, YOLO."""

import json
import logging
import math
import os
import reprlib
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

import yaml
from PIL import Image

__all__ = [
    "DIFFICULT",
    "CocoData",
    "Sources",
    "coco_classes",
    "load_coco",
    "read_voc",
    "read_yolo",
    "shown_size",
    "voc_sources",
    "yolo_sources",
]

logger = logging.getLogger(__name__)

# What becomes of VOC's difficult objects: objects like others, iscrowd=1, or nothing.
DIFFICULT = ("keep", "ignore", "drop")

_PICTURES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_EXIF_ORIENTATION = 0x0112


class CocoData(NamedTuple):
    """A data set.

    Attributes:
        content: what a COCO file holds: ``images``, ``annotations`` and ``categories``.
        image_root: the folder that the images' ``file_name`` are relative to.
    """

    content: dict
    image_root: Path


class Sources(NamedTuple):
    """Where a data set is: the folder of its images, and all files that it is made from."""

    image_root: Path
    files: list[Path]


def shown_size(image: Image.Image) -> tuple[int, int, int]:
    """Width and height, in pixels, of an image as it is shown, and its EXIF orientation (1 to 8).

    detectron2 turns images by that tag when it reads them.
    """
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged tags; detectron2 takes them for none, too
        orientation = 1
    if orientation not in range(1, 9):
        orientation = 1
    width, height = image.size
    return (height, width, orientation) if orientation >= 5 else (width, height, orientation)


# ---- COCO


def load_coco(json_file: str | os.PathLike, image_root: str | os.PathLike) -> CocoData:
    """Read a COCO file and make sure that its fields are there and of the right types.

    Raises:
        FileNotFoundError: if the file or the folder is missing.
        ValueError: naming the file and the first field that is wrong.
    """
    if not os.path.isdir(image_root):
        raise FileNotFoundError(f"no image folder {image_root}")
    content = _load_json(json_file)
    for part in _FIELDS:
        _check_rows(json_file, content, part)
        if not content[part] and part != "annotations":
            raise ValueError(f"{json_file}: no {part}")
    return CocoData(content, Path(image_root))


def coco_classes(json_file: str | os.PathLike) -> list[str]:
    """Names of a COCO file's categories, in the order of their ids; the rest is not looked at.

    Raises:
        FileNotFoundError, ValueError: as :func:`load_coco`; also if there are no categories.
    """
    content = _load_json(json_file)
    _check_rows(json_file, content, "categories")
    if not content["categories"]:
        raise ValueError(f"{json_file}: no categories")
    return [c["name"] for c in sorted(content["categories"], key=lambda c: c["id"])]


def _load_json(json_file: str | os.PathLike) -> dict:
    try:
        content = json.loads(Path(json_file).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"no annotation file {json_file}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{json_file} is damaged or no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file}: expected an object with images, annotations and categories at the top, "
            f"got a {type(content).__name__}"
        )
    return content


def _check_rows(json_file: str | os.PathLike, content: dict, part: str) -> None:
    """One of the three lists is there, and each of its rows has the fields of :data:`_FIELDS`."""
    rows = content.get(part)
    if not isinstance(rows, list):
        what = f"{part} is {reprlib.repr(rows)}" if part in content else f"no key {part!r}"
        raise ValueError(f"{json_file}: {what}, expected a list")
    for i, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{json_file}: {part}[{i}] is {reprlib.repr(row)}, expected an object")
        for field, (fits, expected) in _FIELDS[part].items():
            if field not in row:
                raise ValueError(f"{json_file}: {part}[{i}] has no {field!r}, expected {expected}")
            if not fits(row[field]):
                value = reprlib.repr(row[field])
                raise ValueError(
                    f"{json_file}: {part}[{i}][{field!r}] is {value}, expected {expected}"
                )


def _is_number(value: object) -> bool:
    # NaN and infinity are numbers here: a box that has one is counted, not refused.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _is_whole(value: object) -> bool:
    return _is_number(value) and (type(value) is int or value.is_integer())


def _is_positive(value: object) -> bool:
    return _is_whole(value) and 0 < value < 2**31


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


_ID = (_is_whole, "a whole number")
_FIELDS = {
    "categories": {"id": _ID, "name": (_is_text, "a text")},
    "images": {
        "id": _ID,
        "file_name": (_is_text, "a text"),
        "width": (_is_positive, "a positive whole number"),
        "height": (_is_positive, "a positive whole number"),
    },
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": (_is_box, "[x, y, width, height] in pixels"),
    },
}


class _Object(NamedTuple):
    """One object: the index or name of its class and its box, x, y, width, height in pixels."""

    label: int | str
    box: tuple[float, float, float, float]
    iscrowd: int = 0


def _to_coco(
    classes: Sequence[str], images: Sequence[tuple[str, tuple[int, int], list[_Object]]]
) -> dict:
    """COCO's content, all ids from 1; an image is (file name, (width, height), objects)."""
    content = {
        "info": {},  # some versions of pycocotools want it in the evaluation
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(classes, start=1)],
    }
    for image_id, (file_name, (width, height), objects) in enumerate(images, start=1):
        content["images"].append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        for item in objects:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": item.label + 1,
                    "bbox": list(item.box),
                    "area": item.box[2] * item.box[3],
                    "iscrowd": item.iscrowd,
                }
            )
    return content


def _read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown, from its header."""
    try:
        with Image.open(path) as image:
            return shown_size(image)[:2]
    except FileNotFoundError:
        raise FileNotFoundError(f"no image {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error


def _read_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"no {what} {path}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text") from error
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(number, line) for number, line in lines if line]


# ---- Pascal VOC


class _VocImage(NamedTuple):
    size: tuple[int, int]  # (0, 0) if the file does not tell
    objects: list[_Object]
    difficult: list[bool]


def voc_sources(folder: str | os.PathLike, split: str) -> Sources:
    """What :func:`read_voc` reads.

    Raises:
        FileNotFoundError: if the folder or the list of the split is missing.
    """
    folder = Path(folder)
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder} is no Pascal VOC folder: no {folder / part}")
    listed = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listed.is_file():
        known = sorted(path.stem for path in listed.parent.glob("*.txt"))
        raise FileNotFoundError(f"no list {listed} of split {split!r}; known: {', '.join(known)}")
    xmls = sorted((folder / "Annotations").glob("*.xml"))
    pictures = sorted((folder / "JPEGImages").iterdir())
    return Sources(folder / "JPEGImages", [listed, *xmls, *pictures])


def read_voc(
    folder: str | os.PathLike,
    split: str,
    *,
    difficult: str = "keep",
    classes: Sequence[str] | None = None,
) -> CocoData:
    """Read a Pascal VOC folder: ``Annotations``, ``ImageSets/Main/<split>.txt``, ``JPEGImages``.

    VOC's pixels count from 1 and a box contains its last one, so (1, 1, 10, 10) becomes x, y,
    width, height = 0, 0, 10, 10. An image is found by the name of its XML, whichever type it has.

    Args:
        folder: such as "VOCdevkit/VOC2007".
        split: name of a list of images.
        difficult: one of :data:`DIFFICULT`; "ignore" makes them iscrowd=1.
        classes: objects of others are left out, with a warning; default is all that occur in any
            XML of the folder, sorted.

    Raises:
        FileNotFoundError: naming what is missing.
        ValueError: naming the file and line that is wrong.
    """
    if difficult not in DIFFICULT:
        raise ValueError(f"difficult is {difficult!r}, expected one of {', '.join(DIFFICULT)}")
    image_root, files = voc_sources(folder, split)
    listed, xmls = files[0], [path for path in files if path.suffix == ".xml"]
    wanted = [(n, Path(folder, "Annotations", f"{name}.xml")) for n, name in _split(listed)]
    for number, path in wanted:
        if not path.is_file():
            raise FileNotFoundError(f"{listed}, line {number}: no {path}")
    needed = {path for _, path in wanted} | set(xmls if classes is None else ())
    parsed = {path: _read_voc_xml(path) for path in needed}
    if classes is None:
        classes = sorted({o.label for image in parsed.values() for o in image.objects})
    if not classes:
        raise ValueError(f"{Path(folder, 'Annotations')}: no object in any XML, so no classes")
    pictures = _pictures_by_stem(image_root)
    images, left_out = [], Counter()
    for number, path in wanted:
        if path.stem not in pictures:
            raise FileNotFoundError(f"{listed}, line {number}: no image {image_root / path.stem}.*")
        image, picture = parsed[path], pictures[path.stem]
        size = image.size if min(image.size) > 0 else _read_size(picture)
        images.append((picture.name, size, _choose(image, difficult, classes, left_out)))
    if left_out:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items()))
        logger.warning("%s: left out objects of classes not asked for: %s", listed, counts)
    return CocoData(_to_coco(classes, images), image_root)


def _split(listed: Path) -> list[tuple[int, str]]:
    lines = _read_lines(listed, "list of images")
    if not lines:
        raise ValueError(f"{listed}, line 1: lists no image")
    return lines


def _pictures_by_stem(folder: Path) -> dict[str, Path]:
    pictures = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in _PICTURES)
    return {path.stem: path for path in pictures}


def _choose(
    image: _VocImage, difficult: str, classes: Sequence[str], left_out: Counter
) -> list[_Object]:
    """Objects of the classes asked for, by index; counts the others in ``left_out``."""
    chosen = []
    for item, hard in zip(image.objects, image.difficult, strict=True):
        if item.label not in classes:
            left_out[item.label] += 1
        elif not (hard and difficult == "drop"):
            iscrowd = int(hard and difficult == "ignore")
            chosen.append(_Object(classes.index(item.label), item.box, iscrowd))
    return chosen


def _read_voc_xml(path: Path) -> _VocImage:
    root, lines = _parse_xml(path)
    size = tuple(
        int(_xml_number(root, f"size/{side}", path, lines, default=0))
        for side in ("width", "height")
    )
    objects, difficult = [], []
    for item in root.findall("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"{path}, line {lines[item]}: an object without a name")
        x1, y1, x2, y2 = (
            _xml_number(item, f"bndbox/{corner}", path, lines)
            for corner in ("xmin", "ymin", "xmax", "ymax")
        )
        if x2 < x1 or y2 < y1:
            raise ValueError(
                f"{path}, line {lines[item]}: a box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}), "
                "whose maximum is below its minimum"
            )
        objects.append(_Object(name, (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)))
        difficult.append(_xml_number(item, "difficult", path, lines, default=0) != 0)
    return _VocImage(size, objects, difficult)


def _parse_xml(path: Path) -> tuple[ET.Element, dict[ET.Element, int]]:
    """The root, and the line of each element, which ElementTree's own parser does not tell."""
    builder, lines = ET.TreeBuilder(), {}
    parser = expat.ParserCreate()  # it never opens external entities by itself

    def start(tag: str, attributes: dict) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def refuse(*_) -> None:
        raise ValueError(f"{path}, line {parser.CurrentLineNumber}: entities are not allowed")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        text = expat.ErrorString(error.code)
        raise ValueError(f"{path}, line {error.lineno}: no well-formed XML: {text}") from error
    except LookupError as error:
        raise ValueError(f"{path}, line 1: {error}") from error
    return builder.close(), lines


def _xml_number(
    parent: ET.Element, tag: str, path: Path, lines: dict, default: float | None = None
) -> float:
    """The number in a descendant; ``default`` if there is none or it is empty."""
    item = parent.find(tag)
    text = "" if item is None else (item.text or "").strip()
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        line = lines[parent if item is None else item]
        got = "nothing" if item is None else repr(text)
        raise ValueError(f"{path}, line {line}: expected a number as {tag}, got {got}")
    return value


# ---- YOLO


class _YoloData(NamedTuple):
    """A data.yaml: names of the classes, images of one split."""

    classes: list[str]
    images: list[Path]


def yolo_sources(data: str | os.PathLike, split: str) -> Sources:
    """What :func:`read_yolo` reads.

    Raises:
        FileNotFoundError, ValueError: as there, for the YAML and lists of images.
    """
    images = _read_data_yaml(Path(data), split).images
    labels = [label for label in map(_label_file, images) if label.is_file()]
    return Sources(_common_folder(images), [Path(data), *images, *labels])


def read_yolo(data: str | os.PathLike, split: str) -> CocoData:
    """Read a YOLO folder: images, and beside ``images`` a folder ``labels`` with a .txt for each.

    A line of those is ``class x_center y_center width height`` as fractions of the image, or
    ``class x1 y1 x2 y2 x3 y3 ...``, a polygon of which the surrounding box is taken. An image
    without such a file has no objects.

    Args:
        data: a YAML file with ``names`` (list or {index: name}), for each split a folder of images,
            a list of folders or a .txt list of images, and optionally ``path``, which these are
            relative to. ``path`` itself is relative to the YAML's folder or to the current one.
        split: a key in it, such as "train".

    Raises:
        FileNotFoundError: naming what is missing; also if no image at all has labels.
        ValueError: naming the file and line that is wrong.
    """
    classes, pictures = _read_data_yaml(Path(data), split)
    root = _common_folder(pictures)
    if not any(_label_file(path).is_file() for path in pictures):
        raise FileNotFoundError(
            f"none of the {len(pictures)} images of {split!r} in {data} has labels; the first "
            f"would be {_label_file(pictures[0])}"
        )
    images = []
    for path in pictures:
        size, label = _read_size(path), _label_file(path)
        objects = _read_labels(label, size, len(classes)) if label.is_file() else []
        images.append((path.relative_to(root).as_posix(), size, objects))
    return CocoData(_to_coco(classes, images), root)


def _read_data_yaml(path: Path, split: str) -> _YoloData:
    try:
        text = path.read_text(encoding="utf-8")
        content, tree = yaml.safe_load(text), yaml.compose(text)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or error
        raise ValueError(f"{path}, line {mark.line + 1 if mark else 1}: {problem}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}, line 1: expected keys such as names, train and val")
    lines = {key.value: key.start_mark.line + 1 for key, _ in tree.value}
    if split not in content:
        known = ", ".join(map(str, content))
        raise ValueError(f"{path}, line 1: no split {split!r} among the keys {known}")
    if "kpt_shape" in content:
        raise ValueError(f"{path}, line {lines['kpt_shape']}: labels with keypoints are not read")
    classes = _class_names(path, content, lines)
    root = _yolo_root(path, content, lines)
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    if not entries or not all(isinstance(entry, str) for entry in entries):
        raise ValueError(
            f"{path}, line {lines[split]}: expected a folder, a list of folders or a .txt file as "
            f"{split}, got {reprlib.repr(content[split])}"
        )
    where = f"{path}, line {lines[split]}"
    images = [image for entry in entries for image in _list_images(root, entry, where)]
    if not images:
        raise ValueError(f"{where}: no images in {', '.join(entries)}")
    return _YoloData(classes, images)


def _class_names(path: Path, content: dict, lines: dict[str, int]) -> list[str]:
    names = content.get("names")
    where = f"{path}, line {lines.get('names', 1)}"
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise ValueError(f"{where}: the keys of names must be 0 to {len(names) - 1}")
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{where}: expected names as a list or {{index: name}}")
    names = [str(name) for name in names]
    if len(set(names)) != len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(f"{where}: more than one class called {', '.join(twice)}")
    if content.get("nc", len(names)) != len(names):
        raise ValueError(
            f"{path}, line {lines['nc']}: nc is {content['nc']}, but there are {len(names)} names"
        )
    return names


def _yolo_root(path: Path, content: dict, lines: dict[str, int]) -> Path:
    folder = path.absolute().parent
    given = content.get("path") or ""
    if not isinstance(given, str):
        raise ValueError(f"{path}, line {lines['path']}: expected a folder as path, got {given!r}")
    choices = [folder / given, Path(given).absolute()]
    found = next((choice for choice in choices if choice.is_dir()), None)
    if found is None:
        raise FileNotFoundError(
            f"{path}, line {lines['path']}: no folder {choices[0]} and no {choices[1]}"
        )
    return Path(os.path.normpath(found))


def _list_images(root: Path, entry: str, where: str) -> list[Path]:
    """Images of a folder, also in folders below, sorted; or those that a .txt file lists."""
    choices = [root / entry]
    if entry.startswith("../"):  # some tools write it although the YAML is not one folder deeper
        choices.append(root / entry[3:])
    found = next((Path(os.path.normpath(c)) for c in choices if c.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{where}: no {choices[0]}")
    if found.is_dir():
        return [path for path in sorted(found.rglob("*")) if path.suffix.lower() in _PICTURES]
    if found.suffix != ".txt":
        raise ValueError(f"{where}: {found} is neither a folder nor a .txt list of images")
    images = []
    for number, line in _read_lines(found, "list of images"):
        choices = [found.parent / line, root / line]
        image = next((choice for choice in choices if choice.is_file()), None)
        if image is None:
            raise FileNotFoundError(f"{found}, line {number}: no image {choices[0]}")
        images.append(Path(os.path.normpath(image)))
    return images


def _common_folder(images: Sequence[Path]) -> Path:
    return Path(os.path.commonpath({str(path.parent) for path in images}))


def _label_file(image: Path) -> Path:
    """``.../images/a.jpg`` -> ``.../labels/a.txt``; beside the image if no folder is so called."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, image.stem + ".txt")


def _read_labels(path: Path, size: tuple[int, int], num_classes: int) -> list[_Object]:
    objects = []
    for number, line in _read_lines(path, "labels"):
        try:
            label, *values = map(float, line.split())
        except ValueError:
            raise ValueError(f"{path}, line {number}: expected numbers, got {line!r}") from None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError(
                f"{path}, line {number}: expected `class x_center y_center width height` or a "
                f"polygon, got {1 + len(values)} numbers"
            )
        if label not in range(num_classes):
            raise ValueError(
                f"{path}, line {number}: class {label:g}, but data.yaml names 0 to "
                f"{num_classes - 1}"
            )
        if not all(-1e-3 <= value <= 1 + 1e-3 for value in values):
            raise ValueError(
                f"{path}, line {number}: expected fractions of the image, from 0 to 1, got {line!r}"
            )
        objects.append(_Object(int(label), _pixels(values, size)))
    return objects


def _pixels(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """YOLO's fractions -> x, y, width, height in pixels of an image of (width, height)."""
    if len(values) == 4:
        x, y, width, height = values
        x, y = x - width / 2, y - height / 2
    else:
        x, y = min(values[::2]), min(values[1::2])
        width, height = max(values[::2]) - x, max(values[1::2]) - y
    return x * size[0], y * size[1], width * size[0], height * size[1]
