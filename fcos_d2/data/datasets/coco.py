"""Reader of COCO files that checks every field."""

import json
import os
import reprlib
from pathlib import Path
from typing import Any

from .files import CocoData

__all__ = ["coco_classes", "load_coco"]


def load_coco(json_file: str | os.PathLike, image_root: str | os.PathLike) -> CocoData:
    """Read a COCO file and check that every field exists and has the right type.

    Args:
        json_file: file with images, annotations and categories.
        image_root: folder of the images.

    Raises:
        FileNotFoundError: if the file or the folder is missing.
        ValueError: for the first wrong field; names the file and the field.
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
    """Names of the categories of a COCO file, in the order of their ids.

    This order is that of detectron2's class indices. Images and annotations are not checked.

    Raises:
        FileNotFoundError: if the file is missing.
        ValueError: if the file is not in COCO's format, or has no categories; names the file.
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
        raise ValueError(
            f"{json_file} is not in COCO's format: damaged or not JSON ({error})"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{json_file}: expected an object with images, annotations and categories at the top, "
            f"got a {type(content).__name__}"
        )
    return content


def _check_rows(json_file: str | os.PathLike, content: dict, part: str) -> None:
    """Check that the list ``part`` exists and that its rows have the fields of :data:`_FIELDS`."""
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


def _is_number(value: Any) -> bool:
    # NaN and infinity pass: check-data counts boxes with them instead of refusing the file.
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (type(value) is int or value.is_integer())


def _is_positive(value: Any) -> bool:
    return _is_whole(value) and 0 < value < 2**31


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _is_box(value: Any) -> bool:
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
