"""NEON tree crowns: aerial images with a box around every tree; small enough for a CPU.

The images come from NEON (the National Ecological Observatory Network), the boxes from the authors
of DeepForest (Weinstein et al.). The package of DeepForest contains both.
"""

import io
import itertools
import json
import logging
import os
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..data.datasets.builtin import NEON_TREES_CATEGORIES, NEON_TREES_FOLDERS
from ..data.datasets.coco import load_coco
from ..data.datasets.files import make_stamp
from .fetch import Wheel, fetch_wheel

__all__ = ["DEEPFOREST", "Tiles", "prepare_neon_trees", "tile_boxes"]

logger = logging.getLogger(__name__)

DEEPFOREST = Wheel(
    "deepforest==2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
)
_IMAGE_FOLDER = "deepforest/data"  # in the wheel

# Parts of two 1 km squares in Yellowstone, 13 km apart, and an image of Ordway-Swisher, Florida.
_TRAIN = "2019_YELL_2_528000_4978000_image_crop2"
_VAL = "2019_YELL_2_541000_4977000_image_crop"
_OSBS = "OSBS_029"
_VAL_TILE = 256

_INFO = {
    "description": "NEON tree crowns: boxes around trees in aerial images",
    "contributor": "Images: NEON (National Ecological Observatory Network). "
    "Boxes: DeepForest, Weinstein et al.",
    "url": "https://github.com/weecology/DeepForest",
    "year": 2019,
    "version": DEEPFOREST.requirement,
}
_LICENSES = [
    {
        "id": 1,
        "name": "Data: NEON (National Ecological Observatory Network), CC0 1.0",
        "url": "https://creativecommons.org/publicdomain/zero/1.0/",
    },
    {
        "id": 2,
        "name": "Package with images and boxes: DeepForest, Weinstein et al., MIT",
        "url": "https://github.com/weecology/DeepForest/blob/main/LICENSE",
    },
]

_VERSION = 1  # of the written files; increase it with every change of their content
_STAMP = "stamp.txt"


def prepare_neon_trees(
    root: str | os.PathLike,
    *,
    train_tile: int = 512,
    train_overlap: int = 256,
    source: Wheel = DEEPFOREST,
) -> Path:
    """Make the dataset in ``root/neon_trees``, unless it is already complete there.

    Downloads one package of 21 MB into ``root/downloads`` and keeps it. The images are in
    ``images/{train,val,osbs}`` and ``whole`` (the whole validation image), the boxes in
    ``annotations/{train,val,osbs,val_whole}.json`` in COCO's format. The folder appears complete
    or not at all. ``stamp.txt`` identifies the package and the arguments. A folder with missing
    files or another stamp is renamed to ``neon_trees.old1`` and made again; nothing is deleted.

    Args:
        root: folder of all datasets; created if needed.
        train_tile: side of the training tiles in pixels. Larger than the input of the model,
            because training takes random crops at random scales from the tiles.
        train_overlap: overlap of neighboring training tiles in pixels. Validation tiles have
            256 x 256 pixels without overlap, so that every pixel counts once.
        source: the wheel to read.

    Returns:
        ``root/neon_trees``.

    Raises:
        RuntimeError: if the package cannot be downloaded; says what to do.
        ValueError: for a wrong argument or unexpected content of the package.
        OSError: if ``root`` cannot be written.
    """
    home = Path(root, "neon_trees")
    stamp = make_stamp([_VERSION, source.requirement, source.sha256, train_tile, train_overlap])
    if _is_complete(home, stamp):
        return home
    _starts(train_tile, train_tile, train_overlap)  # raises for wrong arguments before a download
    wheel = fetch_wheel(source.requirement, source.sha256, Path(root, "downloads"))
    # The new folder is built beside the final one, on the same disk, so that renaming is atomic.
    # ``neon_trees`` may be a link to another disk.
    final = home.resolve()
    with tempfile.TemporaryDirectory(prefix=".neon_trees-", dir=final.parent) as temporary:
        new = Path(temporary, "new")
        _build(new, wheel, train_tile, train_overlap)
        (new / _STAMP).write_text(stamp, encoding="utf-8")
        if not _is_complete(home, stamp):  # otherwise another process was faster
            _keep_aside(final)
            new.rename(final)
    logger.info("Made %s", home)
    return home


def _is_complete(home: Path, stamp: str) -> bool:
    """Return True if the stamp is equal and all annotated images exist."""
    try:
        if (home / _STAMP).read_text(encoding="utf-8") != stamp:
            return False
        datasets = [
            load_coco(home / "annotations" / f"{dataset}.json", home / folder)
            for dataset, folder in NEON_TREES_FOLDERS.items()
        ]
    except (OSError, ValueError):
        return False
    return all(
        (data.image_root / image["file_name"]).is_file()
        for data in datasets
        for image in data.content["images"]
    )


def _keep_aside(folder: Path) -> None:
    """Rename a folder to the first free name of ``<folder>.old1``, ``<folder>.old2``, ..."""
    if folder.exists():
        names = (folder.with_name(f"{folder.name}.old{i}") for i in itertools.count(1))
        aside = next(path for path in names if not path.exists())
        text = "%s is incomplete or has another stamp: kept as %s, which you may delete"
        logger.warning(text, folder, aside)
        folder.rename(aside)


class Tiles(NamedTuple):
    """Windows of an image and the boxes in the windows: T windows, M boxes.

    Attributes:
        windows: (T, 4) int64, x0, y0, x1, y1 in pixels of the image; row by row.
        boxes: (M, 4) float64, x0, y0, x1, y1 in pixels of the window, clipped to the window.
        window_index: (M,) int64, index of the window of each box; ascending.
        box_index: (M,) int64, index of each box among the boxes of the image.
    """

    windows: np.ndarray
    boxes: np.ndarray
    window_index: np.ndarray
    box_index: np.ndarray


def tile_boxes(
    boxes: np.ndarray,
    image_size: tuple[int, int],
    tile: int,
    overlap: int = 0,
    min_visible: float = 0.4,
) -> Tiles:
    """Cut an image and its boxes into windows.

    Without overlap, windows start at multiples of ``tile``, and windows at the right and lower
    border may be smaller. With overlap, windows start at multiples of ``tile - overlap``, and the
    last window of a row or column ends at the border, so that all windows have full size. Along a
    side shorter than ``tile`` there is one window.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        image_size: width and height in pixels.
        tile: side of a window in pixels.
        overlap: overlap of neighboring windows in pixels, below ``tile``.
        min_visible: a box belongs to each window that contains more than this share of its area.

    Raises:
        ValueError: if a size is not positive or ``overlap`` is not in [0, tile).
    """
    width, height = image_size
    x0, y0 = _starts(width, tile, overlap), _starts(height, tile, overlap)
    corner = np.stack([np.tile(x0, len(y0)), np.repeat(y0, len(x0))], axis=1)
    windows = np.concatenate([corner, np.minimum(corner + tile, image_size)], axis=1)

    boxes = np.asarray(boxes, dtype=np.float64).reshape(1, -1, 4)
    low, high = windows[:, None, :2], windows[:, None, 2:]
    clipped = np.concatenate(
        [np.clip(boxes[..., :2], low, high), np.clip(boxes[..., 2:], low, high)], axis=2
    )  # (T, N, 4)
    window_index, box_index = np.nonzero(_area(clipped) > min_visible * _area(boxes))
    inside = clipped[window_index, box_index] - np.tile(corner[window_index], 2)
    return Tiles(windows, inside, window_index, box_index)


def _starts(size: int, tile: int, overlap: int) -> np.ndarray:
    """Start positions of the windows along one side, in pixels."""
    if size < 1 or tile < 1 or not 0 <= overlap < tile:
        raise ValueError(
            f"expected size > 0, tile > 0 and 0 <= overlap < tile, got {size}, {tile}, {overlap}"
        )
    if overlap == 0:
        return np.arange(0, size, tile)
    last = max(size - tile, 0)
    stride = tile - overlap
    return np.minimum(np.arange(-(-last // stride) + 1) * stride, last)


def _area(boxes: np.ndarray) -> np.ndarray:
    """Areas (...,) of boxes (..., 4)."""
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def _build(home: Path, wheel: Path, train_tile: int, train_overlap: int) -> None:
    """Write all images and annotations of the datasets into ``home``."""
    with zipfile.ZipFile(wheel) as archive:
        images = {stem: _read_image(archive, stem) for stem in (_TRAIN, _VAL, _OSBS)}
    whole = max(max(pixels.shape) for pixels, _ in images.values())
    for dataset, stem, tile, overlap in (
        ("train", _TRAIN, train_tile, train_overlap),
        ("val", _VAL, _VAL_TILE, 0),
        ("osbs", _OSBS, whole, 0),
        ("val_whole", _VAL, whole, 0),
    ):
        pixels, boxes = images[stem]
        tiles = tile_boxes(boxes, (pixels.shape[1], pixels.shape[0]), tile, overlap)
        folder = home / NEON_TREES_FOLDERS[dataset]
        folder.mkdir(parents=True)
        names = _write_tiles(folder, stem, pixels, tiles.windows)
        annotations = home / "annotations" / f"{dataset}.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(_coco(names, tiles)), encoding="utf-8")
        logger.info("%s: %d images, %d boxes", dataset, len(names), len(tiles.boxes))


def _read_image(archive: zipfile.ZipFile, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Read an image (H, W, 3) uint8 RGB and its boxes (N, 4) float64, corners in pixels.

    The XML file has the name of its image; the filename field in the XML may have another suffix.
    """
    try:
        png, xml = (archive.read(f"{_IMAGE_FOLDER}/{stem}.{kind}") for kind in ("png", "xml"))
    except KeyError as error:
        raise ValueError(f"{archive.filename}: {error.args[0]}") from error
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    size, boxes = _parse_voc(xml)
    if size != (width, height):
        raise ValueError(f"{stem}.xml is for an image of {size}, {stem}.png is {(width, height)}")
    return pixels, boxes


def _parse_voc(xml: bytes) -> tuple[tuple[int, int], np.ndarray]:
    """Parse Pascal VOC's XML: (width, height) and boxes (N, 4) float64, corners in pixels."""
    root = ET.fromstring(xml)
    width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    objects = root.findall("object")
    names = {item.findtext("name") for item in objects}
    if names - {"Tree"}:
        raise ValueError(f"expected only objects named Tree, got {sorted(map(str, names))}")
    corners = ("xmin", "ymin", "xmax", "ymax")
    rows = [[float(item.findtext(f"bndbox/{c}", "nan")) for c in corners] for item in objects]
    boxes = np.array(rows, dtype=np.float64).reshape(-1, 4)
    if not (boxes[:, 2:] > boxes[:, :2]).all():  # also if a corner is missing
        raise ValueError("a box is empty or lacks a corner")
    return (width, height), boxes


def _write_tiles(folder: Path, stem: str, pixels: np.ndarray, windows: np.ndarray) -> list[str]:
    """Save windows of an image as PNG; returns file names with the start positions."""
    names = []
    for x0, y0, x1, y1 in windows.tolist():
        names.append(f"{stem}_x{x0:04d}_y{y0:04d}.png" if len(windows) > 1 else f"{stem}.png")
        Image.fromarray(pixels[y0:y1, x0:x1]).save(folder / names[-1])
    return names


def _coco(names: Sequence[str], tiles: Tiles) -> dict:
    """Content of a COCO file; image ids and annotation ids count from 1."""
    sizes = (tiles.windows[:, 2:] - tiles.windows[:, :2]).tolist()
    xywh = np.concatenate([tiles.boxes[:, :2], tiles.boxes[:, 2:] - tiles.boxes[:, :2]], axis=1)
    rows = zip(tiles.window_index.tolist(), xywh.tolist(), _area(tiles.boxes).tolist())
    return {
        "info": _INFO,
        "licenses": _LICENSES,
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height, "license": 1}
            for i, (name, (width, height)) in enumerate(zip(names, sizes), start=1)
        ],
        "annotations": [
            {
                "id": i,
                "image_id": window + 1,
                "category_id": 1,
                "bbox": box,
                "area": area,
                "iscrowd": 0,
            }
            for i, (window, box, area) in enumerate(rows, start=1)
        ],
        "categories": NEON_TREES_CATEGORIES,
    }
