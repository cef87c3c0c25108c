"""Helpers shared by the dataset readers; every reader returns the content of a COCO file."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

__all__ = [
    "CocoData",
    "DatasetFiles",
    "LabeledBox",
    "displayed_size",
    "make_stamp",
    "read_lines",
    "read_size",
    "to_coco",
]

_EXIF_ORIENTATION = 0x0112


class CocoData(NamedTuple):
    """A dataset in memory.

    Attributes:
        content: content of a COCO file: ``images``, ``annotations`` and ``categories``.
        image_root: folder that the ``file_name`` of each image is relative to.
    """

    content: dict
    image_root: Path


class DatasetFiles(NamedTuple):
    """Files of a dataset on disk.

    Attributes:
        image_root: folder of the images.
        files: all files that the dataset is made from.
    """

    image_root: Path
    files: list[Path]


def make_stamp(recipe: object, files: Iterable[Path] = ()) -> str:
    """Hash of everything that converted data is made from; equal stamps mean equal data.

    Args:
        recipe: version and options of the conversion, as JSON can write them.
        files: source files; their paths, sizes and modification times enter the hash.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: if a file does not exist.
    """
    digest = hashlib.sha256(json.dumps(recipe).encode())
    for path in files:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def displayed_size(image: Image.Image) -> tuple[int, int, int]:
    """Size of an image after its EXIF rotation, which detectron2 applies when it reads images.

    Returns:
        (width, height, orientation): pixels, and the EXIF orientation from 1 to 8.
    """
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # damaged tags; detectron2 ignores them, too
        orientation = 1
    if orientation not in range(1, 9):
        orientation = 1
    width, height = image.size
    return (height, width, orientation) if orientation >= 5 else (width, height, orientation)


class LabeledBox(NamedTuple):
    """One annotated object.

    Attributes:
        label: index or name of the class.
        box: x, y, width, height in pixels.
        iscrowd: 1 for a crowd, otherwise 0.
    """

    label: int | str
    box: tuple[float, float, float, float]
    iscrowd: int = 0


def to_coco(
    classes: Sequence[str], images: Sequence[tuple[str, tuple[int, int], list[LabeledBox]]]
) -> dict:
    """Content of a COCO file; all ids count from 1.

    Args:
        classes: names of the classes.
        images: (file name, (width, height), objects) of each image.
    """
    content: dict[str, Any] = {
        "info": {},  # some versions of pycocotools need the key in the evaluation
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
                    "category_id": int(item.label) + 1,
                    "bbox": list(item.box),
                    "area": item.box[2] * item.box[3],
                    "iscrowd": item.iscrowd,
                }
            )
    return content


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image after its EXIF rotation; reads only the header.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not a readable image.
    """
    try:
        with Image.open(path) as image:
            return displayed_size(image)[:2]
    except FileNotFoundError:
        raise FileNotFoundError(f"no image {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image: {error}") from error


def read_lines(path: Path, what: str) -> list[tuple[int, str]]:
    """Number (from 1) and text of each line that is not blank.

    Args:
        path: a text file in UTF-8.
        what: kind of the file, for error messages.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file is not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"no {what} {path}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 text") from error
    lines = enumerate((line.strip() for line in text.splitlines()), start=1)
    return [(number, line) for number, line in lines if line]
