"""Input files and cameras named by the inputs of a command."""

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

__all__ = ["InputFile", "find_inputs"]


@dataclass(frozen=True)
class InputFile:
    """An image, video or camera to detect in.

    Attributes:
        path: path of the file.
        name: name in the results, with "/" between folders.
        size, mtime_ns: size in bytes and modification time of the file, by which a change is
            noticed. A camera has size 0 and the time of its opening, so that results of an earlier
            run never count as its own.
        camera: device number; None for a file.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    camera: int | None = None

    @property
    def is_video(self) -> bool:
        """True for a video and a camera, False for an image."""
        return self.camera is not None or self.path.suffix.lower() in VIDEO_SUFFIXES


def find_inputs(
    inputs: Sequence[str], *, recursive: bool = False, leave_out: Path | None = None
) -> tuple[list[InputFile], list[str]]:
    """Find the files and cameras that inputs name, each once.

    In a folder, images and videos are found by their suffix; a file given by its path is taken with
    any suffix. Names are relative to the folder or to the fixed part of the pattern; if two files
    get the same name, all names become relative to the folder that all files have in common.

    Args:
        inputs: paths of files and folders, glob patterns, and ``camera:0`` or only the number, if
            no file has this name.
        recursive: also look into folders below the given ones.
        leave_out: a folder whose files are not inputs, such as the folder of drawn images.

    Returns:
        The files, followed by the cameras, and a line for each input that leads to neither.
    """
    found: dict[Path, str] = {}
    cameras: dict[int, InputFile] = {}
    problems = []
    for text in inputs:
        camera = _camera_number(text)
        if camera is not None:
            path = Path(f"camera:{camera}")
            cameras[camera] = InputFile(path, f"camera{camera}", 0, time.time_ns(), camera)
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
    files = []
    for path, name in found.items():
        status = path.stat()
        files.append(InputFile(path, name, status.st_size, status.st_mtime_ns))
    return [*files, *cameras.values()], problems


def _camera_number(text: str) -> int | None:
    match = re.fullmatch(r"(?:camera:)?([0-9]{1,4})", text)
    if match is None or (os.path.exists(text) and not text.startswith("camera:")):
        return None
    return int(match[1])


def _expand(text: str, recursive: bool) -> list[tuple[Path, Path]]:
    """Files of one input, each with the folder to which its name is relative."""
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
        return f"no images or videos in this folder{deeper}"
    if text.startswith("camera:"):
        return "no such camera: give its number, such as camera:0"
    return "no file matches" if glob.has_magic(text) else "no such file or folder"


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and folder.resolve() in path.resolve().parents
