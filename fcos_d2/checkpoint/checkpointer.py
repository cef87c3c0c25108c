"""Loading weights: what matched is said, what cannot be right is refused."""

import logging
import os
import pickle
import zipfile
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

__all__ = ["FCOSCheckpointer"]

logger = logging.getLogger(__name__)

# What torch and pickle raise for files that are cut off or not theirs.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile)
_HEAD = "head."
_BOTTOM_UP = "backbone.bottom_up."


class FCOSCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with a summary, clear errors, and plain backbone weights.

    Besides checkpoints of whole models it loads the state dict of a backbone alone, such as one of
    timm's. Files of torch are read with ``weights_only``.

    Attributes:
        missing_keys: what the last load did not find, shapes that did not fit included.
    """

    missing_keys: tuple[str, ...] = ()

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load a checkpoint; an empty path loads nothing.

        Raises:
            FileNotFoundError: if a local file does not exist.
            ValueError: if the file is no checkpoint or one of another architecture.
        """
        if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
            raise FileNotFoundError(
                f"MODEL.WEIGHTS: no file {path!r} (in {os.getcwd()}); give a path, an https:// or "
                "detectron2:// address, or '' to start from random weights"
            )
        return super().load(path, *args, **kwargs)

    @property
    def missing_head_keys(self) -> list[str]:
        """Parameters of the head that the last load left at their random values."""
        return [key for key in self.missing_keys if key.startswith(_HEAD)]

    def _load_file(self, filename: str) -> dict[str, Any]:
        with open(filename, "rb") as file:
            start = file.read(512).lstrip()
        if not start or start[:1] == b"<":
            looks = "a web page" if start else "an empty file"
            raise ValueError(
                f"{filename} is {looks}, not a checkpoint: a download may have failed. Delete it "
                "and fetch it again"
            )
        try:
            return super()._load_file(filename)
        except _UNREADABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{filename} cannot be read as a checkpoint; it is truncated, or holds more than "
                f"tensors and plain values ({reason})"
            ) from error

    def _torch_load(self, f: str) -> dict[str, Any]:
        return torch.load(f, map_location="cpu", weights_only=True)

    def _load_model(self, checkpoint: dict[str, Any]):
        own = self.model.state_dict()
        if not checkpoint.get("matching_heuristics", False):
            checkpoint["model"] = _as_whole_model(checkpoint["model"], own)
        given = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        wrong_shape = [key for key, *_ in incompatible.incorrect_shapes]
        self.missing_keys = tuple(dict.fromkeys([*incompatible.missing_keys, *wrong_shape]))
        # "num_batches_tracked" is no weight: frozen norms lack it.
        missing = [k for k in self.missing_keys if not k.endswith("num_batches_tracked")]
        if len(self.missing_keys) == len(own):
            raise ValueError(
                "the checkpoint is one of another architecture: none of its "
                f"{len(given)} names fits. It has {_some(given)}; the model has {_some(own)}"
            )
        unexpected = incompatible.unexpected_keys
        logger.info("weights matched:    %d of %d", len(own) - len(missing), len(own))
        logger.info("weights missing:    %d%s", len(missing), _after_colon(missing))
        logger.info("weights unexpected: %d%s", len(unexpected), _after_colon(unexpected))
        if any(key.startswith("head.cls_logits.") for key in wrong_shape):
            logger.warning(
                "The checkpoint has another number of classes: the class logits start anew from "
                "their prior, everything else is kept"
            )
        return incompatible


def _as_whole_model(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A state dict of the backbone alone under the names it has in the whole model."""
    if any(key in own for key in state):
        return state
    for prefix in (_BOTTOM_UP, _BOTTOM_UP + "model."):
        renamed = {prefix + key: value for key, value in state.items() if prefix + key in own}
        if renamed:
            ignored = len(state) - len(renamed)
            logger.info("Weights of a backbone alone; %d others in the file ignored", ignored)
            return renamed
    return state


def _some(keys) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _after_colon(keys) -> str:
    return f": {_some(keys)}" if keys else ""
