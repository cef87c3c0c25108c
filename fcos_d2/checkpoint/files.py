"""Reading checkpoint files from anywhere without running what is in them."""

import hashlib
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_published_hash", "read_checkpoint", "unwrap"]

# What torch and pickle raise for files that are cut off or not theirs.
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
# Everything that detectron2's and Caffe2's .pkl files of weights are made of.
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
# torch.hub's way, which mmdetection shares: the name ends in the start of the file's sha256.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.pth$")


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint as a dict with ``model``, the weights by name, and what else it holds.

    Args:
        path: of a local ``.pkl`` (detectron2's model zoo, Caffe2) or a file of ``torch.save``.

    Returns:
        dict with ``model``; ``matching_heuristics`` and ``__author__`` for ``.pkl`` files that
        need detectron2's matching of names; iteration, optimizer and the like untouched.

    Raises:
        ValueError: if it cannot be read, would run code, or holds no weights.
    """
    with open(path, "rb") as file:
        start = file.read(512).lstrip()
    if not start or start[:1] == b"<":
        looks = "a web page" if start else "an empty file"
        raise ValueError(
            f"{path} is {looks}, not a checkpoint: a download may have failed. Delete it and "
            "fetch it again"
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
            f"{path} cannot be read as a checkpoint; it is truncated, or holds more than tensors "
            f"and plain values ({reason})"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}, not weights by name")
    if path.endswith(".pkl"):
        return _from_pickle(dict(loaded), path)
    return unwrap(loaded, path)


def unwrap(loaded: Mapping[str, Any], path: str = "the checkpoint") -> dict[str, Any]:
    """Find the weights in what a trainer saved.

    Args:
        loaded: a state dict; or a dict with one under ``model``, ``state_dict`` or
            ``model_state``. A prefix ``module.`` that all names share is removed.
        path: to name in errors.

    Returns:
        The dict with the weights under ``model``.

    Raises:
        ValueError: if there are none.
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
    """Compare a downloaded file with the sha256 that its name ends in, if it does.

    Raises:
        ValueError: if they differ.
    """
    match = _HASH_IN_NAME.search(os.path.basename(path))
    if not match:
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if not digest.hexdigest().startswith(match[1]):
        raise ValueError(
            f"{path} is not the file that was published: its sha256 starts with "
            f"{digest.hexdigest()[:8]}, not {match[1]}. Delete it and fetch it again"
        )


class _WeightsUnpickler(pickle.Unpickler):
    """Knows nothing but arrays and containers, so nothing in a file can run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
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
