"""Export of a trained model to a file with metadata."""

import os
from dataclasses import replace
from pathlib import Path

from ..inference.predictor import Predictor
from ..modeling.backbone.size import size_divisibility
from .int8 import calibration_images, quantize
from .metadata import describe, read_metadata, write_metadata
from .save import FORMATS, VARIANTS, save_model, tensor_model

__all__ = ["export_int8", "export_model"]


def export_model(
    predictor: Predictor,
    output: str | os.PathLike,
    *,
    kind: str = "onnx",
    nms: str = "inside",
    min_score: float = 0.0,
    max_detections: int | None = None,
    source: str = "",
) -> Path:
    """Write a model and its metadata.

    Args:
        predictor: predictor with the model, on the CPU; ``max_detections`` also changes the
            ``postprocess`` options of this model.
        output: path of the new file, or a folder.
        kind: "onnx", "torchscript" or "torch-export".
        nms: "inside" for a file that returns detections, "none" for dense predictions.
        min_score: lowest final score of a detection.
        max_detections: largest number of detections per image; None keeps the model's own.
        source: origin of the model, a note in the metadata.

    Returns:
        Path of the new file.

    Raises:
        ImportError: if a package is missing.
        ValueError: for unknown or impossible options, or a model that the format cannot express.
    """
    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}, expected one of {', '.join(FORMATS)}")
    if nms not in VARIANTS:
        raise ValueError(f"unknown nms {nms!r}, expected one of {', '.join(VARIANTS)}")
    if predictor.device.type != "cpu":
        raise ValueError(f"load the model on the CPU to export it, not on {predictor.device}")
    path = _file(output, FORMATS[kind], f"model_{VARIANTS[nms]}")
    model = predictor.model
    if max_detections is not None:
        model.postprocess = replace(model.postprocess, max_detections=max_detections)
    module = tensor_model(model, nms, min_score=min_score)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(module, path, kind, max(model.strides), size_divisibility(model.backbone))
    values = describe(predictor, kind=kind, nms=nms, min_score=min_score, source=source)
    write_metadata(path, values)
    return path


def export_int8(path: Path, predictor: Predictor, folder: str | os.PathLike) -> Path:
    """Quantize an ONNX file that :func:`export_model` wrote.

    Args:
        predictor: predictor with the model of the ONNX file ``path``.
        folder: folder with images on which ranges of values are measured; at most 100 are used.

    Returns:
        Path of the new file, ``model_int8.onnx`` for ``model.onnx``.

    Raises:
        ImportError: without ONNX Runtime.
        ValueError: if the folder has no images.
    """
    images = calibration_images(folder)
    made = path.with_name(f"{path.stem}_int8.onnx")
    quantize(path, made, predictor, images)
    write_metadata(made, {**read_metadata(path), "int8_calibration_pictures": len(images)})
    return made


def _file(output: str | os.PathLike, suffix: str, name: str) -> Path:
    path = Path(output)
    if path.suffix == suffix:
        return path
    if path.suffix in {*FORMATS.values(), ".pt", ".pth", ".json"}:
        raise ValueError(f"the output {path} should end with {suffix}, or be a folder")
    return path / f"{name}{suffix}"
