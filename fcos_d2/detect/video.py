"""Frames of videos and cameras, read with OpenCV."""

import os
from collections.abc import Generator
from typing import Any

import numpy as np

__all__ = ["VIDEO_SUFFIXES", "import_cv2", "read_camera", "read_frames", "video_info"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")

_DEFAULT_RATE = 25.0


def read_frames(path: str | os.PathLike) -> Generator[np.ndarray, None, None]:
    """Read the frames of a video.

    Yields:
        (H, W, 3) uint8, BGR.

    Raises:
        ImportError: without OpenCV.
        ValueError: if the file is not a video, or ends before its first frame.
    """
    video = import_cv2().VideoCapture(os.fspath(path))
    return _frames(video, f"{path} cannot be read: OpenCV cannot decode it as a video")


def read_camera(number: int) -> tuple[float, Generator[np.ndarray, None, None]]:
    """Open a camera.

    Args:
        number: device number, from 0.

    Returns:
        Frames per second that the camera announces (25 if it announces none), and its endless
        frames, (H, W, 3) uint8, BGR. Closing the generator releases the camera.

    Raises:
        ImportError: without OpenCV.
        OSError: if the camera cannot be opened.
        ValueError: from the generator, if the camera gives no first frame.
    """
    cv2 = import_cv2()
    camera = cv2.VideoCapture(number)
    if not camera.isOpened():
        camera.release()
        raise OSError(
            f"camera:{number} cannot be opened: is it plugged in, does another program use it, and "
            f"may you use it (on Linux: read and write /dev/video{number})? Other cameras have "
            "other numbers"
        )
    no_frame = f"camera:{number} gives no images: does another program use it?"
    return _rate_or_default(camera.get(cv2.CAP_PROP_FPS)), _frames(camera, no_frame)


def video_info(path: str | os.PathLike) -> tuple[float, int]:
    """Frames per second (25 if the file does not say) and the number of frames announced."""
    cv2 = import_cv2()
    video = cv2.VideoCapture(os.fspath(path))
    rate, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    video.release()
    return _rate_or_default(rate), max(round(count), 0)


def import_cv2() -> Any:
    """Import OpenCV; the ImportError without it names the package to install."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"videos need OpenCV ({error}): pip install opencv-python-headless"
        ) from error
    return cv2


def _rate_or_default(rate: float) -> float:
    return rate if 0 < rate < 1000 else _DEFAULT_RATE


def _frames(video: Any, no_frame: str) -> Generator[np.ndarray, None, None]:
    """Frames of an open ``VideoCapture``; ValueError with the text ``no_frame`` if it has none."""
    try:
        ok, frame = video.read()
        if not ok:
            raise ValueError(no_frame)
        while ok:
            yield frame
            ok, frame = video.read()
    finally:
        video.release()
