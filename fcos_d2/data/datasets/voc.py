"""Reader of Pascal VOC folders; returns the content of a COCO file."""

import logging
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from ...utils.files import IMAGE_SUFFIXES
from .files import CocoData, DatasetFiles, LabeledBox, read_lines, read_size, to_coco

__all__ = ["DIFFICULT", "read_voc", "voc_files"]

logger = logging.getLogger(__name__)

# Treatment of difficult objects: like other objects, iscrowd=1, or left out.
DIFFICULT = ("keep", "ignore", "drop")


class _VocImage(NamedTuple):
    size: tuple[int, int]  # (0, 0) if the XML has no size
    objects: list[LabeledBox]
    difficult: list[bool]


def voc_files(folder: str | os.PathLike, split: str) -> DatasetFiles:
    """Files that :func:`read_voc` may read.

    Args:
        folder: a folder such as "VOCdevkit/VOC2007".
        split: name of a list of images, such as "train".

    Raises:
        FileNotFoundError: if the folder or the list of the split is missing.
    """
    folder = Path(folder)
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        if not (folder / part).is_dir():
            raise FileNotFoundError(f"{folder} is not a Pascal VOC folder: no {folder / part}")
    list_file = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not list_file.is_file():
        known = sorted(path.stem for path in list_file.parent.glob("*.txt"))
        raise FileNotFoundError(
            f"no list {list_file} of split {split!r}; known: {', '.join(known)}"
        )
    xmls = sorted((folder / "Annotations").glob("*.xml"))
    images = sorted((folder / "JPEGImages").iterdir())
    return DatasetFiles(folder / "JPEGImages", [list_file, *xmls, *images])


def read_voc(
    folder: str | os.PathLike,
    split: str,
    *,
    difficult: str = "keep",
    classes: Sequence[str] | None = None,
) -> CocoData:
    """Read a Pascal VOC folder: ``Annotations``, ``ImageSets/Main/<split>.txt``, ``JPEGImages``.

    VOC counts pixels from 1 and a box contains its last pixel, so (1, 1, 10, 10) becomes x, y,
    width, height = 0, 0, 10, 10. The image of an XML has the same name and any suffix of
    :data:`~fcos_d2.utils.files.IMAGE_SUFFIXES`.

    Args:
        folder: a folder such as "VOCdevkit/VOC2007".
        split: name of a list of images, such as "train".
        difficult: one of :data:`DIFFICULT`; "ignore" sets iscrowd=1 for difficult objects.
        classes: names of the classes; objects of other classes are left out, with a warning.
            Default: all names in the XMLs of the folder, sorted.

    Raises:
        FileNotFoundError: if a file or a folder is missing; names the missing one.
        ValueError: for a malformed file; names the file and the line.
    """
    if difficult not in DIFFICULT:
        raise ValueError(f"difficult is {difficult!r}, expected one of {', '.join(DIFFICULT)}")
    image_root, files = voc_files(folder, split)
    list_file, xmls = files[0], [path for path in files if path.suffix == ".xml"]
    listed = [(n, Path(folder, "Annotations", f"{name}.xml")) for n, name in _split(list_file)]
    for number, path in listed:
        if not path.is_file():
            raise FileNotFoundError(f"{list_file}, line {number}: no {path}")
    needed = {path for _, path in listed} | set(xmls if classes is None else ())
    parsed = {path: _read_voc_xml(path) for path in needed}
    if classes is None:
        classes = sorted({str(o.label) for image in parsed.values() for o in image.objects})
    if not classes:
        raise ValueError(f"{Path(folder, 'Annotations')}: no object in any XML, so no classes")
    image_files = _images_by_stem(image_root)
    images = []
    left_out: Counter[str] = Counter()
    for number, path in listed:
        if path.stem not in image_files:
            raise FileNotFoundError(
                f"{list_file}, line {number}: no image {image_root / path.stem}.*"
            )
        image, image_file = parsed[path], image_files[path.stem]
        size = image.size if min(image.size) > 0 else read_size(image_file)
        images.append((image_file.name, size, _select(image, difficult, classes, left_out)))
    if left_out:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items()))
        logger.warning("%s: left out objects of other classes: %s", list_file, counts)
    return CocoData(to_coco(classes, images), image_root)


def _split(list_file: Path) -> list[tuple[int, str]]:
    lines = read_lines(list_file, "list of images")
    if not lines:
        raise ValueError(f"{list_file}, line 1: lists no image")
    return lines


def _images_by_stem(folder: Path) -> dict[str, Path]:
    images = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES)
    return {path.stem: path for path in images}


def _select(
    image: _VocImage, difficult: str, classes: Sequence[str], left_out: Counter
) -> list[LabeledBox]:
    """Objects of ``classes``, labeled by index; counts the other objects in ``left_out``."""
    selected = []
    for item, is_difficult in zip(image.objects, image.difficult, strict=True):
        if item.label not in classes:
            left_out[item.label] += 1
        elif not (is_difficult and difficult == "drop"):
            iscrowd = int(is_difficult and difficult == "ignore")
            selected.append(LabeledBox(classes.index(item.label), item.box, iscrowd))
    return selected


def _read_voc_xml(path: Path) -> _VocImage:
    root, lines = _parse_xml(path)
    width, height = (
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
        objects.append(LabeledBox(name, (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)))
        difficult.append(_xml_number(item, "difficult", path, lines, default=0) != 0)
    return _VocImage((width, height), objects, difficult)


def _parse_xml(path: Path) -> tuple[ET.Element, dict[ET.Element, int]]:
    """Root and line numbers of all elements; ElementTree's parser has no line numbers."""
    builder, lines = ET.TreeBuilder(), {}
    parser = expat.ParserCreate()  # expat never opens external entities by itself

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
        raise ValueError(f"{path}, line {error.lineno}: not well-formed XML: {text}") from error
    except LookupError as error:
        raise ValueError(f"{path}, line 1: {error}") from error
    return builder.close(), lines


def _xml_number(
    parent: ET.Element, tag: str, path: Path, lines: dict, default: float | None = None
) -> float:
    """Number in the descendant ``tag``; ``default`` if the element is missing or empty."""
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
