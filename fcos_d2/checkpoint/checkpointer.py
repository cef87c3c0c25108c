"""Checkpointer that reports the matched weights and refuses mismatched files."""

import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer

from ..modeling.build import conventions
from ..modeling.fcos import FCOS
from ..utils.files import PART_SUFFIX, replacing
from .convert import convert_names, detect_format, match_counters
from .files import check_published_hash, read_checkpoint
from .formats.format import RESNET_RULES, rename

__all__ = ["BEST", "FCOSCheckpointer"]

logger = logging.getLogger(__name__)

# Name of the checkpoint with the best metric.
BEST = "model_best"
# Backbone weights that several configs start from.
_LITE0_WEIGHTS = "tf_efficientnet_lite0.pth"
_HEAD = "head."
_BOTTOM_UP = "backbone.bottom_up."


class FCOSCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer with a summary, clear errors, and foreign weights.

    It loads checkpoints of fcos_d2, checkpoints of other FCOS code (see ``FORMATS`` in
    ``fcos_d2.checkpoint.convert``), and state dicts of a backbone without a detector, such as from
    timm or torchvision. Loading never executes the content of a file.

    Attributes:
        missing_keys: tensors that the last load did not find, or found with another shape.
        matched: number of tensors that the last load found, and number of tensors of the model.
        class_names: class names of the last load; saved with every checkpoint.
        prefer_average: load the averaged weights if the checkpoint has averaged weights.
    """

    missing_keys: tuple[str, ...] = ()
    matched: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()
    prefer_average: bool = False
    _address: str = ""

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load a checkpoint; an empty path loads nothing.

        Args:
            path: path or address of the checkpoint.
            *args, **kwargs: further arguments of detectron2's checkpointer.

        Returns:
            Entries of the checkpoint that are not part of the model or the checkpointables.

        Raises:
            FileNotFoundError: if a local file does not exist.
            ValueError: if the file is not a checkpoint, or belongs to another architecture.
        """
        if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
            raise FileNotFoundError(
                f"MODEL.WEIGHTS: no file {path!r} (in {os.getcwd()}); give a path, an https:// or "
                "detectron2:// address, or '' to start from random weights"
                + ("; `fcos-d2 fetch-weights` gets this file" if _LITE0_WEIGHTS in path else "")
            )
        self._address = path or ""
        return super().load(path, *args, **kwargs)

    def save(self, name: str, **kwargs: Any) -> None:
        """Save a checkpoint; also after a crash the file is complete or does not exist.

        Args:
            name: file name without ".pth".
            **kwargs: further entries of the checkpoint.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        data.update(kwargs)
        if self.class_names:
            data["class_names"] = list(self.class_names)
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        with replacing(path, "wb") as file:
            torch.save(data, file)
        if name != BEST:  # resuming continues from the last checkpoint, not from the best
            self.tag_last_checkpoint(f"{name}.pth")

    def remove_unfinished(self) -> None:
        """Delete incomplete files that a killed process left in the folder."""
        if self.save_dir and self.save_to_disk:
            for path in Path(self.save_dir).glob(f".*{PART_SUFFIX}"):
                path.unlink()

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        with replacing(os.path.join(self.save_dir, "last_checkpoint")) as file:
            file.write(last_filename_basename)

    @property
    def missing_head_keys(self) -> list[str]:
        """Parameters of the head that kept their random values in the last load."""
        return [key for key in self.missing_keys if key.startswith(_HEAD)]

    def _load_file(self, filename: str) -> dict[str, Any]:
        if "://" in self._address:
            check_published_hash(filename)
        checkpoint = read_checkpoint(filename)
        if "matching_heuristics=True" in self._address:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]):
        model_state = self.model.state_dict()
        self.class_names = tuple(checkpoint.get("class_names", ()))
        average = checkpoint.get("ema")
        if self.prefer_average and average:
            logger.info("Loading the averaged weights of %d steps", average["steps"])
            checkpoint["model"] = average["model"]
        if not checkpoint.get("matching_heuristics", False):
            checkpoint["model"] = self._convert_names(checkpoint["model"], model_state)
        given = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        wrong_shape = [key for key, *_ in incompatible.incorrect_shapes]
        self.missing_keys = tuple(dict.fromkeys([*incompatible.missing_keys, *wrong_shape]))
        # "num_batches_tracked" is not a weight: frozen norms do not have it.
        missing = [k for k in self.missing_keys if not k.endswith("num_batches_tracked")]
        if len(self.missing_keys) == len(model_state):
            raise ValueError(
                "the checkpoint belongs to another architecture: none of its "
                f"{len(given)} names fits. It has {_some(given)}; the model has "
                f"{_some(model_state)}"
            )
        unexpected = incompatible.unexpected_keys
        self.matched = (len(model_state) - len(missing), len(model_state))
        logger.info("weights matched:    %d of %d", *self.matched)
        logger.info("weights missing:    %d%s", len(missing), _after_colon(missing))
        logger.info("weights unexpected: %d%s", len(unexpected), _after_colon(unexpected))
        if any(key.startswith("head.cls_logits.") for key in wrong_shape):
            logger.warning(
                "The checkpoint has another number of classes: the class logits start from their "
                "prior, all other weights are loaded"
            )
        return incompatible

    def _convert_names(self, state: dict[str, Any], model_state: dict[str, Any]) -> dict[str, Any]:
        foreign = detect_format(state)
        if foreign is None:
            return _as_whole_model(state, model_state)
        logger.info("Checkpoint of %s: converting the names of the tensors", foreign.name)
        compat = conventions(self.model) if isinstance(self.model, FCOS) else foreign.compat
        differing = [
            f"{field.name.upper()} {getattr(foreign.compat, field.name)}"
            for field in fields(foreign.compat)
            if getattr(foreign.compat, field.name) != getattr(compat, field.name)
        ]
        if differing:
            logger.warning(
                "Models of %s follow other conventions than this config; for identical detections "
                "use one of configs/%s, or set in MODEL.FCOS.COMPAT: %s",
                foreign.name,
                foreign.name,
                ", ".join(differing),
            )
        return match_counters(convert_names(state, foreign), model_state)


def _as_whole_model(state: dict[str, Any], model_state: dict[str, Any]) -> dict[str, Any]:
    """Rename the state dict of a backbone to the names in the whole model."""
    if any(key in model_state for key in state):
        return state
    plain = {_BOTTOM_UP + key: value for key, value in state.items()}
    timm = {f"{_BOTTOM_UP}model.{key}": value for key, value in state.items()}
    torchvision_resnet = rename(plain, RESNET_RULES)
    for renamed in (plain, timm, torchvision_resnet):
        fitting = {key: value for key, value in renamed.items() if key in model_state}
        if fitting:
            ignored = len(state) - len(fitting)
            logger.info("Backbone weights; ignoring %d other tensors of the file", ignored)
            return fitting
    return state


def _some(keys) -> str:
    keys = list(keys)
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _after_colon(keys) -> str:
    return f": {_some(keys)}" if keys else ""
