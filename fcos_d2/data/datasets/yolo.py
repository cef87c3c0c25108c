"""Reader of YOLO folders; returns the content of a COCO file."""

import os
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from ...utils.files import IMAGE_SUFFIXES
from .files import CocoData, DatasetFiles, LabeledBox, read_lines, read_size, to_coco

__all__ = ["read_yolo", "yolo_files"]


class _YoloData(NamedTuple):
    """Content of a data.yaml: names of the classes, images of one split."""

    classes: list[str]
    images: list[Path]


def yolo_files(data: str | os.PathLike, split: str) -> DatasetFiles:
    """Files that :func:`read_yolo` reads.

    Args:
        data: path of the YAML file.
        split: a key in the YAML file, such as "train".

    Raises:
        FileNotFoundError: if the YAML file or an image is missing.
        ValueError: if the YAML file or a list of images is malformed.
    """
    images = _read_data_yaml(Path(data), split).images
    labels = [label for label in map(_label_file, images) if label.is_file()]
    return DatasetFiles(_common_folder(images), [Path(data), *images, *labels])


def read_yolo(data: str | os.PathLike, split: str) -> CocoData:
    """Read a YOLO folder: ``images``, and beside it ``labels`` with one .txt file per image.

    A line of a .txt file is ``class x_center y_center width height`` as fractions of the image, or
    ``class x1 y1 x2 y2 x3 y3 ...``, a polygon that is replaced by its bounding box. An image
    without a .txt file has no objects.

    Args:
        data: path of a YAML file with ``names`` (list or {index: name}); for each split a folder
            of images, a list of folders or a .txt list of images; and optionally ``path``, the
            folder that the splits are relative to. ``path`` is relative to the folder of the YAML
            file or to the current folder.
        split: a key in the YAML file, such as "train".

    Raises:
        FileNotFoundError: if a file is missing, or if no image has labels; names the missing file.
        ValueError: for a malformed file; names the file and the line.
    """
    classes, paths = _read_data_yaml(Path(data), split)
    root = _common_folder(paths)
    if not any(_label_file(path).is_file() for path in paths):
        raise FileNotFoundError(
            f"none of the {len(paths)} images of {split!r} in {data} has labels; the first "
            f"would be {_label_file(paths[0])}"
        )
    images = []
    for path in paths:
        size, label = read_size(path), _label_file(path)
        objects = _read_labels(label, size, len(classes)) if label.is_file() else []
        images.append((path.relative_to(root).as_posix(), size, objects))
    return CocoData(to_coco(classes, images), root)


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
        line = lines["kpt_shape"]
        raise ValueError(f"{path}, line {line}: labels with keypoints are not supported")
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
    """Sorted images of a folder and its subfolders; or the images that a .txt file lists."""
    choices = [root / entry]
    if entry.startswith("../"):  # some tools write one "../" too many
        choices.append(root / entry[3:])
    found = next((Path(os.path.normpath(c)) for c in choices if c.exists()), None)
    if found is None:
        raise FileNotFoundError(f"{where}: no {choices[0]}")
    if found.is_dir():
        return [path for path in sorted(found.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    if found.suffix != ".txt":
        raise ValueError(f"{where}: {found} is neither a folder nor a .txt list of images")
    images = []
    for number, line in read_lines(found, "list of images"):
        choices = [found.parent / line, root / line]
        image = next((choice for choice in choices if choice.is_file()), None)
        if image is None:
            raise FileNotFoundError(f"{found}, line {number}: no image {choices[0]}")
        images.append(Path(os.path.normpath(image)))
    return images


def _common_folder(images: Sequence[Path]) -> Path:
    return Path(os.path.commonpath({str(path.parent) for path in images}))


def _label_file(image: Path) -> Path:
    """``.../images/a.jpg`` -> ``.../labels/a.txt``; otherwise beside the image."""
    parts = list(image.parent.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, image.stem + ".txt")


def _read_labels(path: Path, size: tuple[int, int], num_classes: int) -> list[LabeledBox]:
    objects = []
    for number, line in read_lines(path, "labels"):
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
        objects.append(LabeledBox(int(label), _pixels(values, size)))
    return objects


def _pixels(values: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Convert fractions to x, y, width, height in pixels; ``size`` is (width, height)."""
    if len(values) == 4:
        x, y, width, height = values
        x, y = x - width / 2, y - height / 2
    else:
        x, y = min(values[::2]), min(values[1::2])
        width, height = max(values[::2]) - x, max(values[1::2]) - y
    return x * size[0], y * size[1], width * size[0], height * size[1]
