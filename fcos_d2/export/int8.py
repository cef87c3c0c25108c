"""Static int8 quantization of an exported ONNX file with ONNX Runtime."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..inference.predictor import Predictor
from ..modeling.backbone.size import size_divisibility
from ..utils.files import IMAGE_SUFFIXES
from .runtime import pad_batch
from .save import INPUTS

__all__ = ["calibration_images", "quantize"]


def calibration_images(folder: str | os.PathLike, limit: int = 100) -> list[Path]:
    """Choose at most ``limit`` images of a folder, spread evenly over their sorted names.

    Raises:
        ValueError: if the folder has no images.
    """
    found = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"no images in {folder}: --int8 needs a folder with about 100 images")
    step = max(len(found) / limit, 1)
    return [found[int(i * step)] for i in range(min(len(found), limit))]


def quantize(
    float_file: Path, int8_file: Path, predictor: Predictor, images: Sequence[Path]
) -> None:
    """Make convolutions int8 (QDQ, weights per channel); everything else stays float.

    Args:
        float_file, int8_file: ONNX file with or without NMS, and path of the new file.
        predictor: prepares the images as in detection.
        images: paths of images on which ranges of values are measured.

    Raises:
        ImportError: without ONNX Runtime.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise ImportError(
            f"int8 needs onnx and ONNX Runtime ({error}): pip install onnx onnxruntime"
        ) from error
    multiple = size_divisibility(predictor.model.backbone)
    prepared = ([predictor.prepare(image).tensor] for image in images)
    inputs = (dict(zip(INPUTS, pad_batch(one, multiple), strict=True)) for one in prepared)

    class Calibration(quantization.CalibrationDataReader):
        def get_next(self):
            return next(inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        simplified = Path(folder) / "simplified.onnx"
        quant_pre_process(str(float_file), str(simplified), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(simplified),
            str(int8_file),
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,  # on x86, QInt8 takes twice the time
        )
