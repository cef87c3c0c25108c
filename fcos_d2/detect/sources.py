"""Which files the inputs of a command stand for."""

import glob
import itertools
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..utils.files import IMAGE_SUFFIXES
from .video import VIDEO_SUFFIXES

__all__ = ["Source", "find_sources"]


@dataclass(frozen=True)
class Source:
    """A file to detect in.

    Attributes:
        path: where it is.
        name: its name in the results, with "/".
        size, mtime_ns: of the file, by which a change is noticed; of a camera, 0 and the time of
            its opening, so that no results of an earlier one count as its own.
        camera: number of the device, if it is no file.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    camera: int | None = None

    @property
    def is_video(self) -> bool:
        """Whether it has frames."""
        return self.camera is not None or self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(
    inputs: Sequence[str], *, recursive: bool = False, leave_out: Path | None = None
) -> tuple[list[Source], list[str]]:
    """Files and cameras that inputs stand for, each once.

    Of a folder these are the pictures and videos by their suffix; a file that is named is taken
    whatever its suffix. Names are relative to the folder or to the fixed part of the pattern; if
    two files then have the same, all are relative to what they have in common.

    Args:
        inputs: paths of files and folders, glob patterns, and ``camera:0``, or only its number if
            no file is called so.
        recursive: look into folders below the given ones, too.
        leave_out: a folder whose files are none, such as that of drawn pictures.

    Returns:
        The files, then cameras, and a line for each input that leads to none.
    """
    found: dict[Path, str] = {}
    cameras: dict[int, Source] = {}
    problems = []
    for text in inputs:
        camera = _camera_number(text)
        if camera is not None:
            place = Path(f"camera:{camera}")
            cameras[camera] = Source(place, f"camera{camera}", 0, time.time_ns(), camera)
            continue
        pairs = _expand(text, recursive)
        pairs = [(path, root) for path, root in pairs if not _is_below(path, leave_out)]
        if not pairs:
            problems.append(f"{text}: {_why_nothing(text, recursive)}")
        for path, root in pairs:
            found.setdefault(path.resolve(), path.relative_to(root).as_posix())
    if len(set(found.values())) < len(found):
        common = os.path.commonpath([path.parent for path in found])
        found = {path: path.relative_to(common).as_posix() for path in found}
    sources = []
    for path, name in found.items():
        status = path.stat()
        sources.append(Source(path, name, status.st_size, status.st_mtime_ns))
    return [*sources, *cameras.values()], problems


def _camera_number(text: str) -> int | None:
    match = re.fullmatch(r"(?:camera:)?([0-9]{1,4})", text)
    is_camera = match and (text.startswith("camera:") or not os.path.exists(text))
    return int(match[1]) if is_camera else None


def _expand(text: str, recursive: bool) -> list[tuple[Path, Path]]:
    """Files of one input, each with the folder that its name is relative to."""
    path = Path(text)
    if path.is_dir():
        files = path.rglob("*") if recursive else path.glob("*")
        suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
        return [
            (file, path)
            for file in sorted(files)
            if file.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        ]
    if path.is_file():
        return [(path, path.parent)]
    if not glob.has_magic(text):
        return []
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    matches = (Path(match) for match in sorted(glob.glob(text, recursive=True)))
    root = Path(*fixed)
    return [(match, root) for match in matches if match.is_file()]


def _why_nothing(text: str, recursive: bool) -> str:
    if Path(text).is_dir():
        deeper = "" if recursive else "; --recursive looks into folders below it"
        return f"no pictures or videos in this folder{deeper}"
    if text.startswith("camera:"):
        return "no such camera: give its number, such as camera:0"
    return "no file matches" if glob.has_magic(text) else "no such file or folder"


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and folder.resolve() in path.resolve().parents
