"""Checks that stop a doomed run before the model is built."""

import difflib
import json
import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

__all__ = ["check_batch", "check_datasets", "class_names"]


def check_datasets(num_classes: int, names: Sequence[str]) -> None:
    """Every data set exists and has as many categories as the model has classes.

    Raises:
        KeyError: for an unknown data set, naming the nearest.
        FileNotFoundError: if its annotations or images are not there.
        ValueError: if the numbers of classes differ, or two sets have different classes.
    """
    seen: dict[str, list[str]] = {}
    for name in names:
        classes = class_names(name)
        if classes is None:
            continue
        if len(classes) != num_classes:
            listed = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(
                f"MODEL.FCOS.NUM_CLASSES is {num_classes}, but the data set {name} has "
                f"{len(classes)} ({listed}). Add to the command: "
                f"MODEL.FCOS.NUM_CLASSES {len(classes)}"
            )
        seen[name] = classes
    first = next(iter(seen), None)
    for name, classes in seen.items():
        if classes != seen[first]:
            raise ValueError(
                f"{name} and {first} have different classes: {classes} and {seen[first]}. Class i "
                "must mean the same in both: give both JSON files the same categories"
            )


def check_batch(ims_per_batch: int, accumulate: int = 1) -> None:
    """The batch divides evenly among processes, and has an image for each part of a step.

    Raises:
        ValueError: naming the nearest batch sizes that do.
    """
    world = comm.get_world_size()
    if ims_per_batch % world:
        low = ims_per_batch // world * world
        nearest = " or ".join(str(n) for n in (low, low + world) if n)
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {ims_per_batch} cannot be divided among {world} processes; "
            f"nearest: {nearest}"
        )
    if not 1 <= accumulate <= ims_per_batch // world:
        raise ValueError(
            f"SOLVER.ACCUMULATE {accumulate} must lie between 1 and the {ims_per_batch // world} "
            "images of a process"
        )


def class_names(name: str) -> list[str] | None:
    """Class names of a registered data set, in the order of its category ids.

    Returns:
        None if the data set does not tell without being loaded.

    Raises:
        KeyError: for an unknown data set, naming the nearest.
        FileNotFoundError: if its annotations or image folder are missing.
        ValueError: if the annotations are no JSON or have no categories.
    """
    if name not in DatasetCatalog:
        near = difflib.get_close_matches(name, DatasetCatalog.list(), n=3, cutoff=0.4)
        raise KeyError(
            f"no data set {name!r} is registered"
            + (f"; nearest: {', '.join(near)}" if near else "")
            + ". --train-json, --yolo and --voc name your own files, and so does DATASETS.CUSTOM"
        )
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    _require(name, "annotations", json_file)
    _require(name, "images", image_root)
    classes = metadata.get("thing_classes")
    if classes is None and json_file and os.path.isfile(json_file):
        classes = _categories(json_file)
    return None if classes is None else list(classes)


def _require(name: str, what: str, path: str | None) -> None:
    if not path or "://" in path or os.path.exists(path):
        return
    if name.startswith("neon_trees_"):
        hint = "`python -m fcos_d2 quickstart` (or `make quickstart`) makes them"
    else:
        hint = "check the registration, or DETECTRON2_DATASETS for the built-in data sets"
    raise FileNotFoundError(f"the {what} of {name} are missing: {path} ({hint})")


def _categories(json_file: str) -> list[str]:
    try:
        with open(json_file, encoding="utf-8") as file:
            categories = json.load(file)["categories"]
        return [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{json_file} is not in COCO's format: {error!r}") from error
