"""Detect in an image with an exported model, without torch and without fcos_d2.

    python tools/onnx_detect.py model_complete.onnx photo.jpg --output drawn.png

Needs onnxruntime, numpy and OpenCV, and the JSON file beside the model.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime


def resize(image: np.ndarray, min_size: int, max_size: int) -> np.ndarray:
    """Resize as the metadata say, like Pillow: OpenCV's own resizing gives other pixels."""
    height, width = image.shape[:2]
    if min_size <= 0:
        return image
    scale = min_size / min(height, width)
    if scale * max(height, width) > max_size:
        scale = max_size / max(height, width)
    for axis in (1, 0):
        wanted = max(int(scale * image.shape[axis] + 0.5), 1)
        values = np.tensordot(weights(image.shape[axis], wanted), image, axes=(1, axis))
        image = np.moveaxis(np.floor(values + 0.5).astype("uint8"), 0, axis)
    return image


def weights(count: int, wanted: int) -> np.ndarray:
    """Share of each of ``count`` old pixels in each of ``wanted`` new pixels: (wanted, count)."""
    step = count / wanted
    centers = (np.arange(wanted) + 0.5) * step
    distances = np.abs(np.arange(count) + 0.5 - centers[:, None]) / max(step, 1)
    shares = np.maximum(1 - distances, 0)
    return np.round(shares / shares.sum(axis=1, keepdims=True) * 2**22) / 2**22  # as Pillow rounds


def detect(session, metadata: dict, image: np.ndarray):
    """Detect in ``image`` (H, W, 3) BGR: boxes (K, 4) in its pixels, scores (K,), classes (K,)."""
    height, width = image.shape[:2]
    small = resize(image, metadata["resize"]["min_size"], metadata["resize"]["max_size"])
    h, w = small.shape[:2]
    if metadata["channel_order"] == "RGB":
        small = small[..., ::-1]
    multiple = metadata["size_divisibility"]
    images = np.zeros((1, 3, -(-h // multiple) * multiple, -(-w // multiple) * multiple), "float32")
    images[0, :, :h, :w] = small.transpose(2, 0, 1)
    inputs = {"images": images, "image_sizes": np.array([[h, w]], "int64")}
    boxes, scores, classes, count = session.run(["boxes", "scores", "classes", "count"], inputs)
    k = count[0]
    boxes = boxes[0, :k] * np.array([width / w, height / h] * 2, "float32")
    boxes[:, 2:] += metadata["added_to_x2_y2_after_scaling"]
    return boxes, scores[0, :k], classes[0, :k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model with NMS, such as model_complete.onnx")
    parser.add_argument("image")
    parser.add_argument("--threshold", type=float, default=0.3)
    parser.add_argument("--output", default="drawn.png")
    args = parser.parse_args()
    metadata = json.loads(args.model.with_suffix(".json").read_text("utf-8"))
    if metadata["flavour"] != "complete":
        raise SystemExit(f"{args.model} has no NMS inside: export with --nms inside")
    image = cv2.imread(args.image)  # upright by EXIF
    if image is None:
        raise SystemExit(f"OpenCV cannot read {args.image} as an image")
    session = onnxruntime.InferenceSession(str(args.model), providers=["CPUExecutionProvider"])
    for box, score, label in zip(*detect(session, metadata, image), strict=True):
        if score < args.threshold:
            continue
        name = metadata["class_names"][label]
        print(f"{name} {score:.5f} " + " ".join(f"{side:.3f}" for side in box))
        x1, y1, x2, y2 = (round(float(side)) for side in box)
        cv2.rectangle(image, (x1, y1), (x2, y2), (255, 200, 0), 2)
        corner = x1, max(y1 - 4, 12)
        cv2.putText(image, f"{name} {score:.2f}", corner, 0, 0.5, (255, 200, 0), 1)
    if not cv2.imwrite(args.output, image):
        raise SystemExit(f"cannot write {args.output}")


if __name__ == "__main__":
    main()
