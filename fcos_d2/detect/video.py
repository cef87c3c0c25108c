"""Frames of videos and cameras, through OpenCV."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["VIDEO_SUFFIXES", "import_cv2", "read_camera", "read_frames", "video_info"]

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


def read_frames(path: str | os.PathLike) -> Iterator[np.ndarray]:
    """Frames of a video.

    Yields:
        (H, W, 3) uint8, BGR.

    Raises:
        ImportError: without OpenCV.
        ValueError: if it is no video, or ends before its first frame.
    """
    video = import_cv2().VideoCapture(os.fspath(path))
    return _frames(video, f"{path} cannot be read: it is no video that OpenCV can decode")


def read_camera(number: int) -> tuple[float, Iterator[np.ndarray]]:
    """Frames per second that a camera announces, 25 if it does not tell, and its endless frames.

    Closing the iterator sets the camera free.

    Args:
        number: of the device, from 0.

    Raises:
        ImportError: without OpenCV.
        OSError: if the camera cannot be opened.
        ValueError: from the iterator, if there is not even a first frame.
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
    nothing = f"camera:{number} gives no pictures: does another program use it?"
    return _known_rate(camera.get(cv2.CAP_PROP_FPS)), _frames(camera, nothing)


def video_info(path: str | os.PathLike) -> tuple[float, int]:
    """Frames per second, 25 if the file does not tell, and the number of frames it announces."""
    cv2 = import_cv2()
    video = cv2.VideoCapture(os.fspath(path))
    rate, count = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT)
    video.release()
    return _known_rate(rate), max(round(count), 0)


def import_cv2() -> Any:
    """OpenCV, or an ImportError that says how to get it."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"videos need OpenCV ({error}): pip install opencv-python-headless"
        ) from error
    return cv2


def _known_rate(rate: float) -> float:
    return rate if 0 < rate < 1000 else 25.0


def _frames(video: Any, nothing: str) -> Iterator[np.ndarray]:
    """Frames of an opened ``VideoCapture``; ValueError with this text if there is none."""
    try:
        there, frame = video.read()
        if not there:
            raise ValueError(nothing)
        while there:
            yield frame
            there, frame = video.read()
    finally:
        video.release()
