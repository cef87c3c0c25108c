"""An exported file against PyTorch, on real pictures."""

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
from .metadata import read_sidecar
from .runtime import load_exported, pad_batch

__all__ = ["Difference", "check_export", "compare_detections", "differences_table"]

# Of dense outputs, as a part of the largest value; of boxes in pixels; of scores.
RAW_TOLERANCE, BOX_TOLERANCE, SCORE_TOLERANCE = 1e-4, 0.5, 1e-3
# Boxes of a class that overlap as much are the same detection.
_SAME_IOU = 0.9


@dataclass(frozen=True)
class Difference:
    """What differs on one picture, or on a batch of them.

    Attributes:
        picture: its name.
        values: the largest difference of each kind, by its name in the table.
        ok: all are small enough.
    """

    picture: str
    values: dict[str, float]
    ok: bool


def check_export(
    path: str | Path,
    predictor: Predictor,
    pictures: Sequence[ImageInput],
    *,
    min_score: float = 0.0,
) -> list[Difference]:
    """Compare on each picture, and then on the first four as one batch.

    Both sides see the same resized pictures. PyTorch's side is the model itself, with its own
    padding and post-processing.

    Args:
        path: of the exported file, its side-car beside it.
        predictor: of the model it was made from, on the CPU.
        pictures: as ``Predictor`` takes them.
        min_score: the one the file was exported with.

    Raises:
        OSError, ValueError: for pictures that cannot be read, or a file that cannot be run.
    """
    about = read_sidecar(path)
    run = load_exported(path, about["format"], about["flavour"])
    prepared = [predictor.prepare(picture).tensor for picture in pictures]
    named = [(_name(p, i), [t]) for i, (p, t) in enumerate(zip(pictures, prepared, strict=True))]
    if len(prepared) > 1:
        batch = prepared[:4]
        named.append((f"the first {len(batch)} as a batch", batch))
    found = []
    for name, tensors in named:
        images, sizes = pad_batch(tensors, about["size_divisibility"])
        outputs = run(images, sizes)
        if about["flavour"] == "raw":
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
    """One row for each picture, for printing."""
    rows = [
        {"picture": d.picture, **{k: _number(v) for k, v in d.values.items()}, "ok": _yes(d.ok)}
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
        detections of both sides that have no partner.
    """
    boxes, scores, classes = ours
    other_boxes, other_scores, other_classes = theirs
    if not len(boxes) or not len(other_boxes):
        return 0.0, 0.0, len(boxes) + len(other_boxes)
    distance = (boxes[:, None] - other_boxes).abs().amax(dim=2)
    allowed = box_iou(boxes, other_boxes) >= _SAME_IOU
    allowed |= distance <= BOX_TOLERANCE  # boxes without area have no IoU
    allowed &= classes[:, None] == other_classes
    # Of several candidates the nearest in box and score.
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
    logits, boxes, quality = (
        flatten_maps(maps) for maps in (predictions.logits, predictions.boxes, predictions.quality)
    )
    strides = predictions.locations.strides[:, None]
    distances = model.head.box_coder.pixel_distances(boxes, strides)
    return {
        "logits": logits.numpy(),
        "distances": distances.numpy(),
        "quality": quality[..., 0].numpy(),
    }


def _raw_differences(outputs: dict, expected: dict) -> dict[str, float]:
    """Largest differences, relative to the largest value of the output."""
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


def _name(picture: ImageInput, i: int) -> str:
    return Path(picture).name if isinstance(picture, (str, Path)) else f"picture {i + 1}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1e}"


def _yes(ok: bool) -> str:
    return "yes" if ok else "NO"
