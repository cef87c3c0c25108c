"""Running an exported file on prepared images."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..modeling.backbone.size import round_up
from .save import OUTPUTS

__all__ = ["load_exported", "pad_batch"]


def load_exported(
    path: str | Path, kind: str, nms: str, *, threads: int = 0
) -> Callable[[np.ndarray, np.ndarray], dict[str, np.ndarray]]:
    """Load an exported file, to run on the CPU.

    Args:
        path: path of the exported file.
        kind, nms: ``format`` and ``nms`` in its metadata.
        threads: number of threads of ONNX Runtime; 0 lets it choose. Others use torch's threads.

    Returns:
        A function from ``images`` and ``image_sizes`` to outputs by name.

    Raises:
        ImportError: for an ONNX file, without ONNX Runtime.
        ValueError: if the runtime cannot run the file.
    """
    if kind == "onnx":
        return _load_onnx(path, threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, buffers are read-only
        if kind == "torchscript":
            run = torch.jit.load(str(path))
        else:
            run = torch.export.load(str(path)).module()

    @torch.no_grad()
    def call(images: np.ndarray, image_sizes: np.ndarray) -> dict[str, np.ndarray]:
        outputs = run(torch.from_numpy(images), torch.from_numpy(image_sizes))
        return {name: x.numpy() for name, x in zip(OUTPUTS[nms], outputs, strict=True)}

    return call


def pad_batch(images: Sequence[Tensor], multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a batch for an exported model: images in the upper left corners, zeros elsewhere.

    Args:
        images: N images (3, h, w) uint8.
        multiple: divisor of the batch's height and width.

    Returns:
        (N, 3, H, W) float32, and (N, 2) int64 heights and widths of the images.
    """
    sizes = np.array([image.shape[-2:] for image in images], dtype=np.int64)
    height, width = (round_up(int(side), multiple) for side in sizes.max(axis=0))
    batch = np.zeros((len(images), 3, height, width), dtype=np.float32)
    for padded, image, (h, w) in zip(batch, images, sizes, strict=True):
        padded[:, :h, :w] = image.numpy()
    return batch, sizes


def _load_onnx(path: str | Path, threads: int) -> Callable:
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            f"ONNX files need ONNX Runtime ({error}): pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Waiting threads must not spin: they would slow down PyTorch, which runs in turns with them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors have no common base class
        hint = ""
        if "DeformConv" in str(error):
            hint = (
                f". ONNX Runtime {onnxruntime.__version__} has no deformable convolution (1.32 "
                "has): install a later one, or export with --format torchscript"
            )
        raise ValueError(f"ONNX Runtime cannot run {path}: {error}{hint}") from error
    names = [output.name for output in session.get_outputs()]

    def call(images: np.ndarray, image_sizes: np.ndarray) -> dict[str, np.ndarray]:
        outputs = session.run(None, {"images": images, "image_sizes": image_sizes})
        return dict(zip(names, outputs, strict=True))

    return call
