"""NEON tree crowns: aerial pictures with a box around every tree, small enough for a CPU.

The pictures are by NEON (the National Ecological Observatory Network), the boxes by the makers of
DeepForest (Weinstein et al.), whose package carries both.
"""

import io
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
from .fetch import Wheel, fetch_wheel

__all__ = ["DEEPFOREST", "Tiles", "prepare_neon_trees", "tile_boxes"]

logger = logging.getLogger(__name__)

DEEPFOREST = Wheel(
    "deepforest==2.1.0", "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54"
)
_PICTURES = "deepforest/data"  # in the wheel

# Parts of two 1 km squares of Yellowstone, 13 km apart, and a picture from Ordway-Swisher, Florida.
_TRAIN = "2019_YELL_2_528000_4978000_image_crop2"
_VAL = "2019_YELL_2_541000_4977000_image_crop"
_OSBS = "OSBS_029"
_VAL_TILE = 256

_INFO = {
    "description": "NEON tree crowns: boxes around trees in aerial pictures",
    "contributor": "Pictures: NEON (National Ecological Observatory Network). "
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
        "name": "Package that carries pictures and boxes: DeepForest, Weinstein et al., MIT",
        "url": "https://github.com/weecology/DeepForest/blob/main/LICENSE",
    },
]

_MANIFEST = "manifest.json"
_VERSION = 1  # of what prepare_neon_trees writes; raise it with any change there


def prepare_neon_trees(
    root: str | os.PathLike,
    *,
    train_tile: int = 512,
    train_overlap: int = 256,
    source: Wheel = DEEPFOREST,
) -> Path:
    """Make the NEON tree crowns in ``root/neon_trees``, unless they are there already.

    Downloads one package of 21 MB into ``root/downloads`` and keeps it. The pictures are
    ``images/{train,val,osbs}`` and ``whole`` (the uncut validation picture), the boxes
    ``annotations/{train,val,osbs,val_whole}.json`` in COCO's format. The folder appears complete
    or not at all. One that is incomplete or altered is made anew; if it holds files that are not
    from here it is renamed, otherwise removed.

    Args:
        root: folder of all datasets; made if missing.
        train_tile: side of the training pieces, in pixels. Larger than what a model sees, because
            training crops and scales at random within them.
        train_overlap: of neighbouring training pieces, in pixels. Validation is on tiles of 256
            px without overlap, so that every pixel counts once.
        source: the wheel to read.

    Returns:
        ``root/neon_trees``.

    Raises:
        RuntimeError: if the package cannot be fetched, saying what to do.
        ValueError: if its content or an argument is not as expected.
        OSError: if ``root`` cannot be written.
    """
    home = Path(root, "neon_trees")
    request = {
        "version": _VERSION,
        "source": {"requirement": source.requirement, "sha256": source.sha256},
        "parameters": {"train_tile": train_tile, "train_overlap": train_overlap},
    }
    fault = _fault(home, request)
    if fault is None:
        return home
    if home.exists():
        logger.warning("%s is not as it should be (%s): making it anew", home, fault)
    _starts(train_tile, train_tile, train_overlap)  # a wrong argument should not cost a download
    wheel = fetch_wheel(source.requirement, source.sha256, Path(root, "downloads"))
    # Beside the final place, also if that is a link to another disk: renaming is atomic there.
    final = home.resolve()
    with tempfile.TemporaryDirectory(prefix=".neon_trees-", dir=final.parent) as temporary:
        new = Path(temporary, "new")
        _build(new, wheel, train_tile, train_overlap)
        _write_manifest(new, request)
        if _fault(home, request) is not None:  # another process may have been faster
            _swap(new, final, Path(temporary, "old"))
    logger.info("Made %s", home)
    return home


class Tiles(NamedTuple):
    """Windows of a picture and the boxes in them: T windows, M boxes.

    Attributes:
        windows: (T, 4) int64, x0, y0, x1, y1 in pixels of the picture; row by row.
        boxes: (M, 4) float64, x0, y0, x1, y1 in pixels of their window, clipped to it.
        window: (M,) int64, which window a box is in; ascending.
        source: (M,) int64, which of the given boxes it is.
    """

    windows: np.ndarray
    boxes: np.ndarray
    window: np.ndarray
    source: np.ndarray


def tile_boxes(
    boxes: np.ndarray,
    image_size: tuple[int, int],
    tile: int,
    overlap: int = 0,
    min_visible: float = 0.4,
) -> Tiles:
    """Cut a picture into windows and its boxes with it.

    Without overlap, windows start at multiples of ``tile``, and those at the right and lower
    border are as small as what remains. With overlap they start at multiples of ``tile - overlap``
    and the last of a row or column is shifted back to end at the border, so that all are of full
    size. A picture smaller than ``tile`` is one window along that side.

    Args:
        boxes: (N, 4), x0, y0, x1, y1 in pixels.
        image_size: width and height in pixels.
        tile: side of a window in pixels.
        overlap: of neighbouring windows in pixels, below ``tile``.
        min_visible: a box belongs to each window that holds more than this share of its area.

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
    window, source = np.nonzero(_area(clipped) > min_visible * _area(boxes))
    inside = clipped[window, source] - np.tile(corner[window], 2)
    return Tiles(windows, inside, window, source)


def _starts(size: int, tile: int, overlap: int) -> np.ndarray:
    """Where windows start along one side, in pixels."""
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
    """(..., 4) corners -> (...,) areas."""
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def _build(home: Path, wheel: Path, train_tile: int, train_overlap: int) -> None:
    """Write all pictures and annotations of the datasets below ``home``."""
    with zipfile.ZipFile(wheel) as archive:
        pictures = {stem: _read_picture(archive, stem) for stem in (_TRAIN, _VAL, _OSBS)}
    whole = max(max(pixels.shape) for pixels, _ in pictures.values())
    for dataset, stem, tile, overlap in (
        ("train", _TRAIN, train_tile, train_overlap),
        ("val", _VAL, _VAL_TILE, 0),
        ("osbs", _OSBS, whole, 0),
        ("val_whole", _VAL, whole, 0),
    ):
        pixels, boxes = pictures[stem]
        tiles = tile_boxes(boxes, (pixels.shape[1], pixels.shape[0]), tile, overlap)
        folder = home / NEON_TREES_FOLDERS[dataset]
        folder.mkdir(parents=True)
        names = _write_tiles(folder, stem, pixels, tiles.windows)
        annotations = home / "annotations" / f"{dataset}.json"
        annotations.parent.mkdir(exist_ok=True)
        annotations.write_text(json.dumps(_coco(names, tiles)), encoding="utf-8")
        logger.info("%s: %d pictures, %d boxes", dataset, len(names), len(tiles.boxes))


def _read_picture(archive: zipfile.ZipFile, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (H, W, 3) uint8 RGB, and its boxes, (N, 4) float64 corners in pixels.

    The XML's own name decides to which picture it belongs: its filename field may name the same
    picture in another format.
    """
    try:
        png, xml = (archive.read(f"{_PICTURES}/{stem}.{kind}") for kind in ("png", "xml"))
    except KeyError as error:
        raise ValueError(f"{archive.filename}: {error.args[0]}") from error
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    size, boxes = _parse_voc(xml)
    if size != (width, height):
        raise ValueError(f"{stem}.xml is for a picture of {size}, {stem}.png is {(width, height)}")
    return pixels, boxes


def _parse_voc(xml: bytes) -> tuple[tuple[int, int], np.ndarray]:
    """Pascal VOC's XML -> (width, height) and (N, 4) float64 corners in pixels, as given there."""
    root = ET.fromstring(xml)
    size = tuple(int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
    objects = root.findall("object")
    names = {item.findtext("name") for item in objects}
    if names - {"Tree"}:
        raise ValueError(f"expected only objects named Tree, got {sorted(map(str, names))}")
    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = [[float(item.findtext(f"bndbox/{c}", "nan")) for c in corners] for item in objects]
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    if not (boxes[:, 2:] > boxes[:, :2]).all():  # also if a corner is missing
        raise ValueError("a box is empty or lacks a corner")
    return size, boxes


def _write_tiles(folder: Path, stem: str, pixels: np.ndarray, windows: np.ndarray) -> list[str]:
    """Save windows of a picture as PNG; returns the names, which tell where each one starts."""
    names = []
    for x0, y0, x1, y1 in windows.tolist():
        names.append(f"{stem}_x{x0:04d}_y{y0:04d}.png" if len(windows) > 1 else f"{stem}.png")
        Image.fromarray(pixels[y0:y1, x0:x1]).save(folder / names[-1])
    return names


def _coco(names: Sequence[str], tiles: Tiles) -> dict:
    """A dataset in COCO's format, image ids and annotation ids from 1."""
    sizes = (tiles.windows[:, 2:] - tiles.windows[:, :2]).tolist()
    xywh = np.concatenate([tiles.boxes[:, :2], tiles.boxes[:, 2:] - tiles.boxes[:, :2]], axis=1)
    rows = zip(tiles.window.tolist(), xywh.tolist(), _area(tiles.boxes).tolist())
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


def _write_manifest(home: Path, request: dict) -> None:
    """Note how a folder was made and the sizes of its files, in bytes."""
    manifest = {**request, "files": {name: (home / name).stat().st_size for name in _files(home)}}
    (home / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _fault(home: Path, request: dict) -> str | None:
    """Why a folder is not what was asked for, by its manifest and sizes; None if it is."""
    manifest = _read_manifest(home)
    if manifest is None:
        return f"no readable {_MANIFEST}"
    files = manifest.pop("files")
    if manifest != request:
        return "made with other parameters"
    for name, size in files.items():
        path = home / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, expected {size}"
    return None


def _read_manifest(home: Path) -> dict | None:
    try:
        manifest = json.loads((home / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict)
    return manifest if known else None


def _files(home: Path) -> list[str]:
    """Files below a folder, relative to it, with forward slashes."""
    return sorted(p.relative_to(home).as_posix() for p in home.rglob("*") if not p.is_dir())


def _swap(new: Path, final: Path, doomed: Path) -> None:
    """Put ``new`` in the place of ``final``, which goes to ``doomed`` if all of it is ours."""
    if final.exists():
        if not _is_ours(final):
            aside = (final.with_name(f"{final.name}.old{i}") for i in range(1, 10**6))
            doomed = next(path for path in aside if not path.exists())
            logger.warning("%s holds files that are not from here: kept as %s", final, doomed)
        final.rename(doomed)
    new.rename(final)


def _is_ours(home: Path) -> bool:
    """Whether a folder holds nothing but what its manifest lists."""
    manifest = _read_manifest(home)
    if manifest is None:
        return home.is_dir() and not _files(home)
    return set(_files(home)) <= {_MANIFEST, *manifest["files"]}
