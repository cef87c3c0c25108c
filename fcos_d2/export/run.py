"""From a trained model to a file and its metadata."""

import os
from dataclasses import replace
from pathlib import Path

from ..inference.predictor import Predictor
from .int8 import calibration_pictures, quantize
from .metadata import describe, read_sidecar, write_sidecar
from .save import FLAVOURS, FORMATS, divisibility, save_model, tensor_model

__all__ = ["export_int8", "export_model"]


def export_model(
    predictor: Predictor,
    output: str | os.PathLike,
    *,
    kind: str = "onnx",
    flavour: str = "complete",
    min_score: float = 0.0,
    max_detections: int | None = None,
    source: str = "",
) -> Path:
    """Write a model and its side-car.

    Args:
        predictor: of the model, on the CPU; its ``postprocess`` takes over ``max_detections``.
        output: file, or a folder for a file named after the flavour.
        kind: "onnx", "torchscript" or "torch-export".
        flavour: "complete" gives detections, "raw" dense predictions.
        min_score: detections of the complete flavour with a lower score are left out.
        max_detections: of an image, instead of the model's own.
        source: a note of where the model came from.

    Returns:
        Path of the file.

    Raises:
        ImportError: if a package is missing.
        ValueError: for unknown or impossible options, or what the format cannot express.
    """
    if kind not in FORMATS:
        raise ValueError(f"unknown format {kind!r}, expected one of {', '.join(FORMATS)}")
    if flavour not in FLAVOURS:
        raise ValueError(f"unknown flavour {flavour!r}, expected one of {', '.join(FLAVOURS)}")
    if predictor.device.type != "cpu":
        raise ValueError(f"load the model on the CPU to export it, not on {predictor.device}")
    path = _file(output, FORMATS[kind], f"model_{flavour}")
    model = predictor.model
    if max_detections is not None:
        model.postprocess = replace(model.postprocess, max_detections=max_detections)
    module = tensor_model(model, flavour, min_score=min_score)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(module, path, kind, max(model.strides), divisibility(model.backbone))
    values = describe(predictor, kind=kind, flavour=flavour, min_score=min_score, source=source)
    write_sidecar(path, values)
    return path


def export_int8(path: Path, predictor: Predictor, folder: str | os.PathLike) -> Path:
    """Quantise an ONNX file that :func:`export_model` wrote.

    Args:
        path: of the file.
        predictor: of its model.
        folder: with pictures to measure ranges on; at most 100 are used.

    Returns:
        Path of the new file, ``model_int8.onnx`` for ``model.onnx``.
    """
    pictures = calibration_pictures(folder)
    made = path.with_name(f"{path.stem}_int8.onnx")
    quantize(path, made, predictor, pictures)
    write_sidecar(made, {**read_sidecar(path), "int8_calibration_pictures": len(pictures)})
    return made


def _file(output: str | os.PathLike, suffix: str, name: str) -> Path:
    path = Path(output)
    if path.suffix == suffix:
        return path
    if path.suffix in {*FORMATS.values(), ".pt", ".pth", ".json"}:
        raise ValueError(f"the output {path} should end with {suffix}, or be a folder")
    return path / f"{name}{suffix}"
