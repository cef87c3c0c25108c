"""Running an exported file on prepared pictures."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .save import OUTPUTS

__all__ = ["load_exported", "pad_batch"]


def load_exported(
    path: str | Path, kind: str, flavour: str, *, threads: int = 0
) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """An exported file as a function of ``images`` and ``image_sizes``, on the CPU.

    Args:
        path: of the file.
        kind, flavour: of its side-car.
        threads: of ONNX Runtime; 0 lets it choose. The other formats follow torch.

    Raises:
        ImportError: without ONNX Runtime.
        ValueError: if the runtime cannot run the file.
    """
    if kind == "onnx":
        return _load_onnx(path, threads)
    if kind == "torchscript":
        run = _quietly(torch.jit.load, path)
    else:
        run = _quietly(torch.export.load, path).module()

    @torch.no_grad()
    def call(images: np.ndarray, image_sizes: np.ndarray) -> dict[str, np.ndarray]:
        outputs = run(torch.from_numpy(images), torch.from_numpy(image_sizes))
        return {name: x.numpy() for name, x in zip(OUTPUTS[flavour], outputs, strict=True)}

    return call


def pad_batch(pictures: Sequence[Tensor], multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (3, h, w) at the upper left of one array, as exported models take them.

    Returns:
        (N, 3, H, W) float32 with H and W multiples of ``multiple``, and (N, 2) int64 sizes.
    """
    sizes = np.array([picture.shape[-2:] for picture in pictures], dtype=np.int64)
    height, width = -(-sizes.max(axis=0) // multiple) * multiple
    images = np.zeros((len(pictures), 3, height, width), dtype=np.float32)
    for image, picture, (h, w) in zip(images, pictures, sizes, strict=True):
        image[:, :h, :w] = picture.numpy()
    return images, sizes


def _quietly(load: Callable, path: str | Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, buffers are read-only
        return load(str(path))


def _load_onnx(path: str | Path, threads: int) -> Callable:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"to run ONNX files, ONNX Runtime is needed ({error}): pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that spin while they wait would slow PyTorch down, beside which files are run here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no common class
        hint = ""
        if "DeformConv" in str(error):
            hint = (
                f". ONNX Runtime {onnxruntime.__version__} has no deformable convolution (1.32 "
                "has): take a later one, or --format torchscript"
            )
        raise ValueError(f"ONNX Runtime cannot run {path}: {error}{hint}") from error
    names = [output.name for output in session.get_outputs()]

    def call(images: np.ndarray, image_sizes: np.ndarray) -> dict[str, np.ndarray]:
        outputs = session.run(None, {"images": images, "image_sizes": image_sizes})
        return dict(zip(names, outputs, strict=True))

    return call
