"""Files in the output folder of a detection run.

``detections.jsonl`` is the state from which an interrupted run continues: the line of an image is
added after its drawn image is on disk. The other files are made from it at the end.
"""

import csv
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..inference.detections import Detections
from ..inference.predictor import Predictor
from ..utils.files import replacing
from ..version import __version__
from .sources import InputFile
from .video import import_cv2

__all__ = [
    "VideoFile",
    "drawn_name",
    "keep_finished",
    "options_key",
    "save_image",
    "write_coco",
    "write_csv",
]

# Formats of drawn images and videos; a file in another format gets the default's suffix added.
_DRAWN_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_CSV_COLUMNS = "file frame width height x1 y1 x2 y2 score class_id class_name"


def options_key(predictor: Predictor, class_ids: list[int] | None) -> str:
    """Digest of everything that changes results: weights, config, threshold, precision, classes."""
    model = predictor.cfg.MODEL.clone()
    model.defrost()
    model.WEIGHTS = model.DEVICE = ""
    values = (
        *(__version__, model.dump(), predictor.cfg.INPUT.dump(), predictor.class_names),
        *(predictor.score_threshold, predictor.precision, class_ids),
        *((predictor.tile, predictor.overlap) if predictor.tile else ()),
    )
    digest = hashlib.sha256(repr(values).encode())
    for name, tensor in predictor.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def keep_finished(
    path: Path, files: Sequence[InputFile], options: str, drawn: Path | None
) -> tuple[set[str], int]:
    """Keep the lines of finished files, in the order of ``files``, and drop all other lines.

    Drops truncated lines, incomplete videos, results of changed files or other options, and
    entries whose drawn image is missing.

    Args:
        path: ``detections.jsonl``.
        files: input files of this run.
        options: see :func:`options_key`.
        drawn: folder of drawn images; None if they are not wanted.

    Returns:
        Names of the finished files, and the number of complete lines that were dropped.
    """
    if not path.is_file():
        return set(), 0
    current = {file.name: file for file in files}
    spans: dict[str, list[tuple[int, int]]] = {}
    complete = set()
    whole_lines = offset = 0
    for raw, line in _read_lines(path):
        if line is not None:
            whole_lines += 1
            name = line.get("file")
            if name in current and _still_holds(line, current[name], options, drawn):
                spans.setdefault(name, []).append((offset, len(raw)))
                if line.get("last_frame", True):
                    complete.add(name)
        offset += len(raw)
    kept = [spans[file.name] for file in files if file.name in complete]
    with replacing(path, "wb") as new, open(path, "rb") as old:
        for start, length in itertools.chain.from_iterable(kept):
            old.seek(start)
            new.write(old.read(length))
    incomplete = sum(len(lines) for name, lines in spans.items() if name not in complete)
    return complete, whole_lines - incomplete - sum(map(len, kept))


def _still_holds(line: dict, file: InputFile, options: str, drawn: Path | None) -> bool:
    recorded = (line.get("size"), line.get("mtime_ns"), line.get("options"))
    unchanged = recorded == (file.size, file.mtime_ns, options)
    if not line.get("last_frame", True):  # the drawn video is complete only at the last frame
        return unchanged
    return unchanged and (drawn is None or (drawn / drawn_name(file)).is_file())


def _read_lines(path: Path) -> Iterator[tuple[bytes, dict | None]]:
    """Yield each line as bytes and as a dict; None for a truncated line."""
    with open(path, "rb") as file:
        for raw in file:
            try:
                line = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                line = None
            yield raw, line if isinstance(line, dict) else None


def _read_results(path: Path) -> Iterator[dict]:
    """Yield each complete line as a dict."""
    return (line for _, line in _read_lines(path) if line is not None)


def drawn_name(file: InputFile) -> str:
    """Name of the drawn image or video, in a format that can be written."""
    suffixes = tuple(_CODECS) if file.is_video else _DRAWN_SUFFIXES
    default = ".mp4" if file.is_video else ".png"
    return file.name if file.name.lower().endswith(suffixes) else file.name + default


def save_image(image: Image.Image, path: Path) -> None:
    """Save an image in the format of the path's suffix; creates missing folders.

    Raises:
        OSError, ValueError: if the image cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = (
        {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    )
    image.save(path, **options)


class VideoFile:
    """A video file that gets its final name once it is complete.

    Args:
        path: final name; the suffix decides the codec.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate = path, rate
        self.part = path.with_name(path.stem + ".part" + path.suffix)
        self.writer: Any = None
        self.written = 0

    def write(self, frame: Image.Image, is_last: bool, until: float = 0.0) -> None:
        """Add a frame.

        Args:
            frame: RGB.
            is_last: complete the file.
            until: seconds since the first frame; the frame is repeated until the video has this
                length, but written at least once.

        Raises:
            ImportError: without OpenCV.
            ValueError: if OpenCV cannot write this format.
        """
        cv2 = import_cv2()
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter_fourcc(*_CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.part), codec, self.rate, frame.size)
            if not self.writer.isOpened():
                raise ValueError(f"OpenCV cannot write the video {self.path}; try --no-pictures")
        bgr = np.ascontiguousarray(np.asarray(frame)[..., ::-1])
        for _ in range(max(1, round(until * self.rate) - self.written)):
            self.writer.write(bgr)
            self.written += 1
        if is_last:
            self.writer.release()
            os.replace(self.part, self.path)

    def discard_part(self) -> None:
        """Remove the file of a video that was not completed."""
        if self.writer is not None:
            self.writer.release()
        self.part.unlink(missing_ok=True)


def write_coco(lines: Path, output: Path, predictor: Predictor) -> None:
    """Write ``detections.json`` with COCO results, and ``images.json`` with the images' ids."""
    names = predictor.class_names
    category_ids = predictor.category_ids or list(range(1, len(names) + 1))
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, names)]
    with (
        replacing(output / "detections.json", encoding="utf-8") as results,
        replacing(output / "images.json", encoding="utf-8") as images,
    ):
        head = {"info": {}, "annotations": [], "categories": categories}
        images.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "images": [')
        results.write("[")
        results_before = images_before = ""
        for image_id, line in enumerate(_read_results(lines), start=1):
            height, width = line["image_size"]
            image = {"id": image_id, "file_name": line["file"], "width": width, "height": height}
            if "frame" in line:
                image["frame"] = line["frame"]
            images.write(f"{images_before}\n{json.dumps(image, ensure_ascii=False)}")
            images_before = ","
            for result in Detections.from_dict(line).to_coco(image_id, category_ids):
                results.write(f"{results_before}\n{json.dumps(result)}")
                results_before = ","
        images.write("\n]}\n")
        results.write("\n]\n")


def write_csv(lines: Path, path: Path) -> None:
    """Write one CSV row per detection; ``frame`` is empty for images."""
    with replacing(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_CSV_COLUMNS.split())
        for line in _read_results(lines):
            height, width = line["image_size"]
            for row in zip(line["boxes"], line["scores"], line["class_ids"], line["class_names"]):
                box, *rest = row
                writer.writerow([line["file"], line.get("frame", ""), width, height, *box, *rest])
