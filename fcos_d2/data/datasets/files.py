"""What the readers of COCO, Pascal VOC and YOLO share: all give the content of a COCO file."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "CocoData",
    "LabeledBox",
    "Sources",
    "read_lines",
    "read_size",
    "shown_size",
    "to_coco",
]

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
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


class LabeledBox(NamedTuple):
    """One object: the index or name of its class and its box, x, y, width, height in pixels."""

    label: int | str
    box: tuple[float, float, float, float]
    iscrowd: int = 0


def to_coco(
    classes: Sequence[str], images: Sequence[tuple[str, tuple[int, int], list[LabeledBox]]]
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


def read_size(path: Path) -> tuple[int, int]:
    """Width and height of an image as it is shown, from its header."""
    try:
        with Image.open(path) as image:
            return shown_size(image)[:2]
    except FileNotFoundError:
        raise FileNotFoundError(f"no image {path}") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read: {error}") from error


def read_lines(path: Path, what: str) -> list[tuple[int, str]]:
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
