"""Loading weights: what matched is said, what cannot be right is refused."""

import contextlib
import glob
import logging
import os
from collections.abc import Callable
from dataclasses import fields
from typing import Any, BinaryIO

import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..modeling.build import conventions
from ..modeling.fcos import FCOS
from .convert import detect_format, fit_names, to_ours
from .files import check_published_hash, read_checkpoint
from .formats.format import RESNET_RULES, rename

__all__ = ["BEST", "FCOSCheckpointer"]

logger = logging.getLogger(__name__)

# Name of the checkpoint with the best metric.
BEST = "model_best"
_UNFINISHED = ".tmp"
# What several of our configs start from.
_OWN_WEIGHTS = "tf_efficientnet_lite0.pth"
_HEAD = "head."
_BOTTOM_UP = "backbone.bottom_up."


class FCOSCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with a summary, clear errors, and plain backbone weights.

    Besides checkpoints of whole models it loads those of other FCOS code (see ``FORMATS`` in
    ``fcos_d2.checkpoint.convert``) and the state dict of a backbone alone, such as one of timm's or
    torchvision's. Nothing in a file is executed, whatever its format.

    Attributes:
        missing_keys: what the last load did not find, shapes that did not fit included.
        matched: how many of the model's tensors the last load found, and how many there are.
        class_names: of the last load; saved with every checkpoint.
        prefer_average: load the averaged weights of a checkpoint that has some.
    """

    missing_keys: tuple[str, ...] = ()
    matched: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    prefer_average: bool = False
    _address: str = ""

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
                + ("; `fcos-d2 fetch-weights` gets this one" if _OWN_WEIGHTS in path else "")
            )
        self._address = path or ""
        return super().load(path, *args, **kwargs)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save; the file is there as a whole or not at all, whenever the process is killed."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        data.update(kwargs)
        if self.class_names:
            data["class_names"] = list(self.class_names)
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        _write_whole(path, lambda file: torch.save(data, file))
        if name != BEST:  # training goes on from the last one, not from the best
            self.tag_last_checkpoint(f"{name}.pth")

    def remove_unfinished(self) -> None:
        """Delete what killed processes had begun to write."""
        if self.save_dir and self.save_to_disk:
            for path in glob.glob(os.path.join(glob.escape(self.save_dir), f"*{_UNFINISHED}")):
                os.remove(path)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        path = os.path.join(self.save_dir, "last_checkpoint")
        _write_whole(path, lambda file: file.write(last_filename_basename.encode()))

    @property
    def missing_head_keys(self) -> list[str]:
        """Parameters of the head that the last load left at their random values."""
        return [key for key in self.missing_keys if key.startswith(_HEAD)]

    def _load_file(self, filename: str) -> dict[str, Any]:
        if "://" in self._address:
            check_published_hash(filename)
        checkpoint = read_checkpoint(filename)
        if "matching_heuristics=True" in self._address:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]):
        own = self.model.state_dict()
        self.class_names = tuple(checkpoint.get("class_names", ()))
        average = checkpoint.get("ema")
        if self.prefer_average and average:
            logger.info("Taking the averaged weights of %d steps", average["steps"])
            checkpoint["model"] = average["model"]
        if not checkpoint.get("matching_heuristics", False):
            checkpoint["model"] = self._to_our_names(checkpoint["model"], own)
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
        self.matched = (len(own) - len(missing), len(own))
        logger.info("weights matched:    %d of %d", *self.matched)
        logger.info("weights missing:    %d%s", len(missing), _after_colon(missing))
        logger.info("weights unexpected: %d%s", len(unexpected), _after_colon(unexpected))
        if any(key.startswith("head.cls_logits.") for key in wrong_shape):
            logger.warning(
                "The checkpoint has another number of classes: the class logits start anew from "
                "their prior, everything else is kept"
            )
        return incompatible

    def _to_our_names(self, state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
        form = detect_format(state)
        if form is None:
            return _as_whole_model(state, own)
        logger.info("Weights of %s: converting their names", form.name)
        compat = conventions(self.model) if isinstance(self.model, FCOS) else form.compat
        differing = [
            f"{field.name.upper()} {getattr(form.compat, field.name)}"
            for field in fields(form.compat)
            if getattr(form.compat, field.name) != getattr(compat, field.name)
        ]
        if differing:
            logger.warning(
                "Models of %s follow other conventions than this config; for their very detections "
                "take one of configs/%s, or set in MODEL.FCOS.COMPAT: %s",
                form.name,
                form.name,
                ", ".join(differing),
            )
        return fit_names(to_ours(state, form), own)


def _write_whole(path: str, write: Callable[[BinaryIO], Any]) -> None:
    temporary = f"{path}.{os.getpid()}{_UNFINISHED}"
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def _as_whole_model(state: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A state dict of the backbone alone under the names it has in the whole model."""
    if any(key in own for key in state):
        return state
    below = {_BOTTOM_UP + key: value for key, value in state.items()}
    in_timm = {f"{_BOTTOM_UP}model.{key}": value for key, value in state.items()}
    for renamed in (below, in_timm, rename(below, RESNET_RULES)):  # the last: torchvision's ResNets
        fitting = {key: value for key, value in renamed.items() if key in own}
        if fitting:
            ignored = len(state) - len(fitting)
            logger.info("Weights of a backbone alone; %d others in the file ignored", ignored)
            return fitting
    return state


def _some(keys) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _after_colon(keys) -> str:
    return f": {_some(keys)}" if keys else ""
