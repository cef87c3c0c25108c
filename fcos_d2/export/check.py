"""Comparison of an exported file with PyTorch on real images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor
from torchvision.ops import box_iou

from ..data.images import ImageInput
from ..inference.predictor import Predictor
from ..modeling.head import flatten_maps
from .metadata import read_metadata
from .runtime import load_exported, pad_batch

__all__ = ["Difference", "check_export", "compare_detections", "differences_table"]

# Largest differences: of dense outputs relative to the largest value, of boxes in pixels.
RAW_TOLERANCE, BOX_TOLERANCE, SCORE_TOLERANCE = 1e-4, 0.5, 1e-3
# IoU from which two boxes of a class are the same detection.
_SAME_IOU = 0.9


@dataclass(frozen=True)
class Difference:
    """Differences on one image, or on a batch of images.

    Attributes:
        image: name of the image or batch.
        values: largest difference of each kind, by its name in the table.
        ok: True if all differences are small enough.
    """

    image: str
    values: dict[str, float]
    ok: bool


def check_export(
    path: str | Path, predictor: Predictor, images: Sequence[ImageInput], *, min_score: float = 0.0
) -> list[Difference]:
    """Compare on each image, and then on the first four images as one batch.

    Both sides get the same resized images. PyTorch's side is the model itself, with its own padding
    and post-processing.

    Args:
        path: path of the exported file, with its metadata beside it.
        predictor: predictor with the exported model, on the CPU.
        images: see ``Predictor``.
        min_score: value given at the export.

    Raises:
        OSError, ValueError: for images that cannot be read, or a file that cannot be run.
    """
    metadata = read_metadata(path)
    run = load_exported(path, metadata["format"], metadata["nms"])
    prepared = [predictor.prepare(image).tensor for image in images]
    named = [(_name(images[i], i), [tensor]) for i, tensor in enumerate(prepared)]
    if len(prepared) > 1:
        batch = prepared[:4]
        named.append((f"the first {len(batch)} as a batch", batch))
    found = []
    for name, tensors in named:
        outputs = run(*pad_batch(tensors, metadata["size_divisibility"]))
        if metadata["nms"] == "none":
            values = _raw_differences(outputs, _dense_predictions(predictor.model, tensors))
            ok = all(value <= RAW_TOLERANCE for value in values.values())
        else:
            values = _detection_differences(outputs, predictor.model, tensors, min_score)
            ok = (
                values["unmatched"] == 0
                and values["boxes, px"] <= BOX_TOLERANCE
                and values["scores"] <= SCORE_TOLERANCE
            )
        found.append(Difference(name, values, ok))
    return found


def differences_table(differences: Iterable[Difference]) -> str:
    """Format one row per image."""
    rows = [
        {
            "image": d.image,
            **{name: _number(value) for name, value in d.values.items()},
            "ok": "yes" if d.ok else "NO",
        }
        for d in differences
    ]
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def compare_detections(
    ours: tuple[Tensor, Tensor, Tensor], theirs: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float, int]:
    """Pair detections of equal class that are nearly the same box, best first.

    Args:
        ours, theirs: (K, 4) boxes in pixels, (K,) scores, (K,) classes.

    Returns:
        Largest difference of a box coordinate and of a score among pairs, and the number of
        unpaired detections of both sides.
    """
    boxes, scores, classes = ours
    other_boxes, other_scores, other_classes = theirs
    if not len(boxes) or not len(other_boxes):
        return 0.0, 0.0, len(boxes) + len(other_boxes)
    distance = (boxes[:, None] - other_boxes).abs().amax(dim=2)
    allowed = box_iou(boxes, other_boxes) >= _SAME_IOU
    allowed |= distance <= BOX_TOLERANCE  # boxes without area have no IoU
    allowed &= classes[:, None] == other_classes
    # The best candidate is the nearest one in box and score.
    cost = distance + (scores[:, None] - other_scores).abs() / SCORE_TOLERANCE
    cost[~allowed] = torch.inf
    worst_box, worst_score, pairs = 0.0, 0.0, 0
    for i in range(len(boxes)):
        j = int(cost[i].argmin())
        if cost[i, j] == torch.inf:
            continue
        worst_box = max(worst_box, float(distance[i, j]))
        worst_score = max(worst_score, float((scores[i] - other_scores[j]).abs()))
        cost[:, j] = torch.inf
        pairs += 1
    return worst_box, worst_score, len(boxes) + len(other_boxes) - 2 * pairs


@torch.no_grad()
def _dense_predictions(model, tensors: list[Tensor]) -> dict[str, np.ndarray]:
    images = model.preprocess_image([{"image": tensor} for tensor in tensors]).tensor
    predictions = model.predict(images)
    strides = predictions.locations.strides[:, None]
    boxes = flatten_maps(predictions.boxes)
    return {
        "logits": flatten_maps(predictions.logits).numpy(),
        "distances": model.head.box_coder.pixel_distances(boxes, strides).numpy(),
        "quality": flatten_maps(predictions.quality)[..., 0].numpy(),
    }


def _raw_differences(outputs: dict, expected: dict) -> dict[str, float]:
    """Largest difference of each output, relative to its largest value."""
    return {
        name: float(np.abs(outputs[name] - value).max() / max(np.abs(value).max(), 1e-12))
        for name, value in expected.items()
    }


@torch.no_grad()
def _detection_differences(
    outputs: dict, model, tensors: list[Tensor], min_score: float
) -> dict[str, float]:
    expected = model([{"image": tensor} for tensor in tensors])
    worst_box, worst_score, unmatched, total = 0.0, 0.0, 0, 0
    for i, output in enumerate(expected):
        instances = output["instances"]
        instances = instances[instances.scores >= min_score]
        count = int(outputs["count"][i])
        boxes = torch.from_numpy(outputs["boxes"][i, :count].copy())
        boxes[:, 2:] += int(model.postprocess.one_pixel_boxes)
        scores = torch.from_numpy(outputs["scores"][i, :count])
        classes = torch.from_numpy(outputs["classes"][i, :count])
        theirs = instances.pred_boxes.tensor, instances.scores, instances.pred_classes
        box, score, alone = compare_detections((boxes, scores, classes), theirs)
        worst_box, worst_score = max(worst_box, box), max(worst_score, score)
        unmatched, total = unmatched + alone, total + len(instances)
    return {
        "detections": total,
        "boxes, px": worst_box,
        "scores": worst_score,
        "unmatched": unmatched,
    }


def _name(image: ImageInput, i: int) -> str:
    return Path(image).name if isinstance(image, (str, Path)) else f"image {i + 1}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1e}"
