"""Static int8 quantisation of an exported ONNX file with ONNX Runtime."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..inference.predictor import Predictor
from ..utils.files import IMAGE_SUFFIXES
from .runtime import pad_batch
from .save import divisibility

__all__ = ["calibration_pictures", "quantize"]


def calibration_pictures(folder: str | Path, limit: int = 100) -> list[Path]:
    """Pictures of a folder to measure ranges of values on, spread over their sorted names.

    Raises:
        ValueError: if it holds none.
    """
    found = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not found:
        raise ValueError(f"no pictures in {folder}: --int8 needs a folder with some, such as 100")
    step = max(len(found) / limit, 1)
    return [found[int(i * step)] for i in range(min(len(found), limit))]


def quantize(
    float_file: Path, int8_file: Path, predictor: Predictor, pictures: Sequence[Path]
) -> None:
    """Make convolutions int8 (QDQ, weights per channel); everything else stays float.

    Args:
        float_file: an ONNX file of either flavour.
        int8_file: to write.
        predictor: prepares the pictures as in detection.
        pictures: to measure ranges on.

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
    multiple = divisibility(predictor.model.backbone)

    class Pictures(quantization.CalibrationDataReader):
        def __init__(self):
            self.left = iter(pictures)

        def get_next(self):
            picture = next(self.left, None)
            if picture is None:
                return None
            images, sizes = pad_batch([predictor.prepare(picture).tensor], multiple)
            return {"images": images, "image_sizes": sizes}

    with tempfile.TemporaryDirectory() as folder:
        simplified = Path(folder) / "simplified.onnx"
        quant_pre_process(str(float_file), str(simplified), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(simplified),
            str(int8_file),
            Pictures(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,  # on x86, int8 takes twice the time
        )
