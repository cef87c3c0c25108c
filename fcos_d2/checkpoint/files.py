"""Reader of checkpoint files from any source; it never executes their content."""

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..utils.files import file_sha256

__all__ = ["check_published_hash", "read_checkpoint", "unwrap"]

# Exceptions that torch and pickle raise for truncated files and other formats.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
)
# Types in the .pkl weight files of detectron2 and Caffe2.
_HARMLESS = {
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}
# Convention of torch.hub and mmdetection: the name ends in the first 8 digits of the SHA-256.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint as a dict.

    Args:
        path: path of a ``.pkl`` file (detectron2's model zoo, Caffe2) or a ``torch.save`` file.

    Returns:
        dict with the weights by name under ``model``; ``matching_heuristics`` and ``__author__``
        for ``.pkl`` files that need detectron2's name matching; other entries of the file, such
        as iteration and optimizer, unchanged.

    Raises:
        ValueError: if the file cannot be read, could execute code, or has no weights.
    """
    with open(path, "rb") as file:
        start = file.read(512).lstrip()
    if not start or start[:1] == b"<":
        looks = "a web page" if start else "an empty file"
        raise ValueError(
            f"{path} is {looks}, not a checkpoint: a download may have failed. Delete it and "
            "download it again"
        )
    try:
        if path.endswith(".pkl"):
            with open(path, "rb") as file:
                loaded = _WeightsUnpickler(file, encoding="latin1").load()
        else:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} cannot be read as a checkpoint; the file is truncated, or holds more than "
            f"tensors and plain values ({reason})"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not weights by name")
    if path.endswith(".pkl"):
        return _from_pickle(dict(loaded), path)
    return unwrap(loaded, path)


def unwrap(loaded: Mapping[str, Any], path: str = "the checkpoint") -> dict[str, Any]:
    """Find the weights in the content of a training checkpoint.

    Args:
        loaded: a state dict; or a dict with a state dict under ``model``, ``state_dict`` or
            ``model_state``. A prefix ``module.`` of all names is removed.
        path: path for error messages.

    Returns:
        ``loaded`` with the weights under ``model``.

    Raises:
        ValueError: if there are no weights.
    """
    rest = dict(loaded)
    wrapper = next(
        (k for k in ("model", "state_dict", "model_state") if isinstance(rest.get(k), Mapping)),
        None,
    )
    if wrapper is None:
        state, rest = rest, {}
    else:
        state = rest.pop(wrapper)
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no weights: its entries are {', '.join(map(str, loaded))}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return {**rest, "model": tensors}


def check_published_hash(path: str) -> None:
    """Compare the SHA-256 of a downloaded file with the digits at the end of its name, if any.

    Raises:
        ValueError: if the digits differ.
    """
    match = _HASH_IN_NAME.search(os.path.basename(path))
    if not match:
        return
    digest = file_sha256(path)
    if not digest.startswith(match[1]):
        raise ValueError(
            f"{path} is not the file that was published: its sha256 starts with "
            f"{digest[:8]}, not {match[1]}. Delete it and download it again"
        )


class _WeightsUnpickler(pickle.Unpickler):
    """Unpickler that accepts only arrays and containers, so no code in a file can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it needs {module}.{name}")
        if module == "collections":
            return OrderedDict
        return super().find_class(module, name)


def _from_pickle(data: dict[str, Any], path: str) -> dict[str, Any]:
    if "model" in data and "__author__" in data:  # detectron2's model zoo
        return data
    weights = data.get("blobs", data)  # Caffe2; its ImageNet models have no "blobs"
    weights = {k: v for k, v in weights.items() if not k.endswith("_momentum")}
    if not any(hasattr(v, "shape") for v in weights.values()):
        raise ValueError(f"{path} holds no weights: its entries are {', '.join(map(str, data))}")
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
