"""Pascal VOC folders, read as the content of a COCO file."""

import logging
import math
import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from .files import IMAGE_SUFFIXES, CocoData, LabeledBox, Sources, read_lines, read_size, to_coco

__all__ = ["DIFFICULT", "read_voc", "voc_sources"]

logger = logging.getLogger(__name__)

# What becomes of difficult objects: objects like others, iscrowd=1, or nothing.
DIFFICULT = ("keep", "ignore", "drop")


class _VocImage(NamedTuple):
    size: tuple[int, int]  # (0, 0) if the file does not tell
    objects: list[LabeledBox]
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
        size = image.size if min(image.size) > 0 else read_size(picture)
        images.append((picture.name, size, _choose(image, difficult, classes, left_out)))
    if left_out:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(left_out.items()))
        logger.warning("%s: left out objects of classes not asked for: %s", listed, counts)
    return CocoData(to_coco(classes, images), image_root)


def _split(listed: Path) -> list[tuple[int, str]]:
    lines = read_lines(listed, "list of images")
    if not lines:
        raise ValueError(f"{listed}, line 1: lists no image")
    return lines


def _pictures_by_stem(folder: Path) -> dict[str, Path]:
    pictures = (p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES)
    return {path.stem: path for path in pictures}


def _choose(
    image: _VocImage, difficult: str, classes: Sequence[str], left_out: Counter
) -> list[LabeledBox]:
    """Objects of the classes asked for, by index; counts the others in ``left_out``."""
    chosen = []
    for item, hard in zip(image.objects, image.difficult, strict=True):
        if item.label not in classes:
            left_out[item.label] += 1
        elif not (hard and difficult == "drop"):
            iscrowd = int(hard and difficult == "ignore")
            chosen.append(LabeledBox(classes.index(item.label), item.box, iscrowd))
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
        objects.append(LabeledBox(name, (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1)))
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
