"""Detect in a picture with an exported model, without torch and without fcos_d2.

    python tools/onnx_detect.py model_complete.onnx picture.jpg --output drawn.png

Needs onnxruntime, numpy and OpenCV, and the JSON file beside the model.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def resize(picture: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """The side-car's rule, with Pillow's antialiasing: OpenCV's own resizing gives other pixels."""
    height, width = picture.shape[:2]
    if min_size <= 0:
        return picture
    scale = min_size / min(height, width)
    if scale * max(height, width) > max_size:
        scale = max_size / max(height, width)
    for axis in (1, 0):
        wanted = max(int(scale * picture.shape[axis] + 0.5), 1)
        values = np.tensordot(weights(picture.shape[axis], wanted), picture, axes=(1, axis))
        picture = np.moveaxis(np.floor(values + 0.5).astype("uint8"), 0, axis)
    return picture


def weights(count: int, wanted: int) -> np.ndarray:
    """(wanted, count) share of every old pixel in every new one."""
    step = count / wanted
    centers = (np.arange(wanted) + 0.5) * step
    away = np.abs(np.arange(count) + 0.5 - centers[:, None]) / max(step, 1)
    shares = np.maximum(1 - away, 0)
    return np.round(shares / shares.sum(axis=1, keepdims=True) * 2**22) / 2**22  # as Pillow rounds


def detect(session, about: dict, picture: np.ndarray):
    """Boxes (K, 4) in pixels of ``picture`` (H, W, 3) BGR, scores (K,), classes (K,)."""
    height, width = picture.shape[:2]
    small = resize(picture, about["resize"]["min_size"], about["resize"]["max_size"])
    h, w = small.shape[:2]
    if about["channel_order"] == "RGB":
        small = small[..., ::-1]
    multiple = about["size_divisibility"]
    images = np.zeros((1, 3, -(-h // multiple) * multiple, -(-w // multiple) * multiple), "float32")
    images[0, :, :h, :w] = small.transpose(2, 0, 1)
    inputs = {"images": images, "image_sizes": np.array([[h, w]], "int64")}
    boxes, scores, classes, count = session.run(["boxes", "scores", "classes", "count"], inputs)
    found = count[0]
    boxes = boxes[0, :found] * np.array([width / w, height / h] * 2, "float32")
    boxes[:, 2:] += about["added_to_x2_y2_after_scaling"]
    return boxes, scores[0, :found], classes[0, :found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="of the complete flavour")
    parser.add_argument("picture")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--output", default="drawn.png")
    args = parser.parse_args()
    about = json.loads(args.model.with_suffix(".json").read_text("utf-8"))
    if about["flavour"] != "complete":
        raise SystemExit(f"{args.model} is {about['flavour']}: export the complete flavour")
    picture = cv2.imread(args.picture)  # upright by EXIF
    if picture is None:
        raise SystemExit(f"{args.picture} is no picture that OpenCV can read")
    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    for box, score, label in zip(*detect(session, about, picture), strict=True):
        if score < args.threshold:
            continue
        name = about["class_names"][label]
        print(f"{name} {score:.5f} " + " ".join(f"{side:.3f}" for side in box))
        x1, y1, x2, y2 = (round(float(side)) for side in box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), (255, 200, 0), 2)
        corner = x1, max(y1 - 4, 12)
        cv2.putText(picture, f"{name} {score:.2f}", corner, 0, 0.5, (255, 200, 0), 1)
    if not cv2.imwrite(args.output, picture):
        raise SystemExit(f"cannot write {args.output}")


if __name__ == "__main__":
    main()
