"""What training and ``fcos-d2 convert`` leave in a folder: config, weights, names of classes."""

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

# What training and `fcos-d2 convert` write.
_WEIGHTS_FILES = ("model_best.pth", "model_final.pth", "model.pth")
# State that a model can be without and detect the same.
_NOT_FOR_INFERENCE = ("num_batches_tracked", "moving_num_fg")


def locate_model(
    folder_or_config: str | os.PathLike, weights: str | os.PathLike | None
) -> tuple[str, str | None]:
    """Paths of the config and, where they are told, the weights.

    Raises:
        FileNotFoundError: if they are not there.
        ValueError: for a file of weights instead of a folder or config.
    """
    path = os.fspath(folder_or_config)
    weights = None if weights is None else os.fspath(weights)
    if path.endswith((".pth", ".pkl")):
        raise ValueError(
            f"{path} holds weights: give its folder, if config.yaml is there, or the config first "
            "and this as the weights"
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
            f"no weights in the folder {folder}: none of {', '.join(names)} is there; give weights"
        )
    return str(max(files, key=lambda file: file.stat().st_mtime_ns))


def trained_weights(cfg, config: str) -> str:
    """MODEL.WEIGHTS, unless it is plain that they are no trained detector's."""
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
    """Load weights that leave nothing random; returns what else the checkpoint holds.

    Args:
        averaged: take the averaged ones, where there are some.

    Raises:
        OSError, ValueError: if they cannot be read, or do not fill the model.
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
    """Names that the checkpoint, the config or the registered training set tells, in this order.

    Raises:
        ValueError: if the first two tell another number than the model has classes.
    """
    told = {
        "class_names of the checkpoint": checkpoint.get("class_names"),
        "MODEL.FCOS.CLASS_NAMES": cfg.MODEL.FCOS.get("CLASS_NAMES"),
    }
    for where, names in told.items():
        if names:
            check_names(where, names, cfg)
            return [str(name) for name in names]
    count = cfg.MODEL.FCOS.NUM_CLASSES
    names = _metadata(cfg, "thing_classes") or []
    return list(names) if len(names) == count else [f"class {i}" for i in range(count)]


def find_category_ids(cfg, class_names: list[str]) -> list[int] | None:
    """Ids in the registered training set, if its classes are these."""
    index_of_id = _metadata(cfg, "thing_dataset_id_to_contiguous_id") or {}
    ids = sorted(index_of_id, key=index_of_id.get)
    known = _metadata(cfg, "thing_classes")
    same = known is not None and list(known) == class_names and len(ids) == len(class_names)
    return ids if same else None


def _metadata(cfg, key: str):
    """What the catalog knows of the first training set, without reading it; None if nothing."""
    name = next(iter(cfg.DATASETS.TRAIN), None)
    return MetadataCatalog.get(name).get(key) if name in DatasetCatalog else None


def check_names(where: str, names: Sequence[str], cfg) -> None:
    """Raises ValueError unless there is a name for each class."""
    count = cfg.MODEL.FCOS.NUM_CLASSES
    if len(names) != count:
        raise ValueError(
            f"{where}: {len(names)} names for the {count} classes of MODEL.FCOS.NUM_CLASSES"
        )
