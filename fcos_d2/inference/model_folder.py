"""Folders of trained models: config, weights and class names.

Training and ``fcos-d2 convert`` write such folders.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from torch import nn

from ..checkpoint import FCOSCheckpointer
from ..config import get_config_file
from ..model_zoo import weights_url

__all__ = [
    "check_names",
    "find_category_ids",
    "find_class_names",
    "load_all_weights",
    "locate_model",
    "trained_weights",
]

# Names of the weights that training and `fcos-d2 convert` write.
_WEIGHTS_FILES = ("model_best.pth", "model_final.pth", "model.pth")
# Buffers that do not affect inference.
_NOT_FOR_INFERENCE = ("num_batches_tracked", "moving_num_fg")


def locate_model(
    folder_or_config: str | os.PathLike, weights: str | os.PathLike | None
) -> tuple[str, str | None]:
    """Find the config and the weights of a model.

    Args:
        folder_or_config, weights: see ``Predictor.from_pretrained``.

    Returns:
        Path of the config, and path or address of the weights; None for a config without weights.

    Raises:
        FileNotFoundError: if the folder lacks a config or weights, or the config does not exist.
        ValueError: for a file of weights instead of a folder or config.
    """
    path = os.fspath(folder_or_config)
    weights = None if weights is None else os.fspath(weights)
    if path.endswith((".pth", ".pkl")):
        raise ValueError(
            f"{path} holds weights: give its folder, if it has a config.yaml, or give the config "
            "first and this file as the weights"
        )
    if not os.path.isdir(path):
        return get_config_file(path), weights
    config = Path(path) / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"no config.yaml in the folder {path}: give a folder that training or `fcos-d2 "
            "convert` wrote, or a config"
        )
    if weights is None:
        return str(config), _newest_weights(Path(path))
    inside = Path(path) / weights
    found_inside = not os.path.isfile(weights) and inside.is_file()
    return str(config), str(inside) if found_inside else weights


def _newest_weights(folder: Path) -> str:
    names = list(_WEIGHTS_FILES)
    last = folder / "last_checkpoint"
    if last.is_file():
        names.append(last.read_text("utf-8").strip())
    files = [folder / name for name in names if name and (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(
            f"no weights in the folder {folder}: expected one of {', '.join(names)}; give weights"
        )
    return str(max(files, key=lambda file: file.stat().st_mtime_ns))


def trained_weights(cfg, config: str) -> str:
    """MODEL.WEIGHTS; raises a ValueError that names ``config`` if empty or ImageNet weights."""
    weights = cfg.MODEL.WEIGHTS
    if weights and "ImageNetPretrained" not in weights:
        return weights
    try:
        hint = f"; published are {weights_url(config)}"
    except ValueError:
        hint = ""
    raise ValueError(
        f"{config} names no trained detector: MODEL.WEIGHTS is {weights!r}. Give weights{hint}"
    )


def load_all_weights(model: nn.Module, weights: str, averaged: bool) -> dict:
    """Load weights that fill the whole model.

    Args:
        model: an FCOS.
        weights: path or address.
        averaged: prefer the averaged weights of the checkpoint, if it has some.

    Returns:
        Other entries of the checkpoint.

    Raises:
        OSError, ValueError: if the weights cannot be read, or do not fill the model.
    """
    checkpointer = FCOSCheckpointer(model)
    checkpointer.prefer_average = averaged
    checkpoint = checkpointer.load(weights)
    missing = checkpointer.missing_head_keys or [
        key for key in checkpointer.missing_keys if not key.endswith(_NOT_FOR_INFERENCE)
    ]
    if missing:
        raise ValueError(
            f"{weights} lacks {len(missing)} weights of the model, such as {missing[0]}, which "
            "would stay random. Give a trained detector, and the config it was trained with"
        )
    return checkpoint


def find_class_names(cfg, checkpoint: dict) -> list[str]:
    """Class names from the checkpoint, the config or the registered training set, in this order.

    Returns:
        One name per class: "class 0", "class 1", ... if no source has names.

    Raises:
        ValueError: if the number of names in checkpoint or config is not the number of classes.
    """
    candidates = {
        "class_names of the checkpoint": checkpoint.get("class_names"),
        "MODEL.FCOS.CLASS_NAMES": cfg.MODEL.FCOS.get("CLASS_NAMES"),
    }
    for where, names in candidates.items():
        if names:
            check_names(where, names, cfg)
            return [str(name) for name in names]
    count = cfg.MODEL.FCOS.NUM_CLASSES
    names = _metadata(cfg, "thing_classes") or []
    return list(names) if len(names) == count else [f"class {i}" for i in range(count)]


def find_category_ids(cfg, class_names: list[str]) -> list[int] | None:
    """Category ids from the registered training set; None if it has other classes."""
    index_of_id = _metadata(cfg, "thing_dataset_id_to_contiguous_id") or {}
    ids = sorted(index_of_id, key=lambda i: index_of_id[i])
    known = _metadata(cfg, "thing_classes")
    same = known is not None and list(known) == class_names and len(ids) == len(class_names)
    return ids if same else None


def _metadata(cfg, key: str):
    """Catalog entry of the first training set, which is not read; None if it is unknown."""
    name = next(iter(cfg.DATASETS.TRAIN), None)
    return MetadataCatalog.get(name).get(key) if name in DatasetCatalog else None


def check_names(where: str, names: Sequence[str], cfg) -> None:
    """Raise a ValueError that names ``where`` unless there is one name per class."""
    count = cfg.MODEL.FCOS.NUM_CLASSES
    if len(names) != count:
        raise ValueError(
            f"{where}: {len(names)} names for the {count} classes of MODEL.FCOS.NUM_CLASSES"
        )
