"""Random images, and helpers for tests of ``fcos-d2 detect``."""

import json

import numpy as np
import pytest

from fcos_d2 import cli

RNG = np.random.default_rng(0)
GOOD = ["below/deep.png", "deep16.png", "gray.png", "photo.jpg", "pixel.png", "plain.png"]


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def run(inputs, model, output, *more):
    inputs = [str(path) for path in (inputs if isinstance(inputs, list) else [inputs])]
    words = ["--model", str(model), "--output", str(output), "--recursive", "--device", "cpu"]
    return cli.main(["detect", *inputs, *words, *more])


def lines_of(output):
    return [json.loads(line) for line in (output / "detections.jsonl").read_text().splitlines()]


def contents(output):
    """All files below a folder, by name."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


def read_video(path):
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames, video.get(cv2.CAP_PROP_FPS)
