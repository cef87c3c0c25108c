"""Files and names: complete writes, checksums, and the nearest known name."""

import difflib
import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

__all__ = ["IMAGE_SUFFIXES", "PART_SUFFIX", "file_sha256", "nearest", "replacing"]

# Suffix of files that are not complete yet; a killed process leaves them behind.
PART_SUFFIX = ".part"

# Suffixes of image files, lower case; Pillow reads them all.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".avif"),
)


@contextmanager
def replacing(path: str | os.PathLike, mode: str = "w", **options: Any) -> Iterator[IO]:
    """Open a new file that replaces ``path`` once it is complete.

    Readers see the old file or the whole new one, never a part. The new one reaches the disk
    before it gets its name. After an exception nothing is left of it.

    Args:
        path: final name; its folder must exist.
        mode: "w" or "wb".
        options: passed to :func:`open`, such as ``encoding``.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    # A name of its own, because several processes may write the same file; not from tempfile,
    # whose files only their owner may read.
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with open(part, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def nearest(name: str, known: Iterable[str], count: int = 3, cutoff: float = 0.4) -> str:
    """Known names that are spelled like ``name``, best first, for an error message.

    Args:
        count: largest number of names returned.
        cutoff: smallest similarity, from 0 to 1.

    Returns:
        Such as "; nearest: cat, car", or "" if no name is similar enough.
    """
    near = difflib.get_close_matches(name, list(known), n=count, cutoff=cutoff)
    return f"; nearest: {', '.join(near)}" if near else ""
