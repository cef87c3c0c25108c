"""Datasets that this project registers by name."""

import os

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

__all__ = [
    "NEON_TREES_CATEGORIES",
    "NEON_TREES_FOLDERS",
    "dataset_root",
    "register_datasets",
    "register_neon_trees",
]

# Dataset -> folder of the images; the annotations are annotations/<dataset>.json.
NEON_TREES_FOLDERS = {
    "train": "images/train",
    "val": "images/val",
    "osbs": "images/osbs",
    "val_whole": "whole",
}
NEON_TREES_CATEGORIES = [{"id": 1, "name": "tree"}]


def dataset_root() -> str:
    """Folder of all datasets: ``DETECTRON2_DATASETS``, or ``datasets`` in the working folder."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def register_datasets() -> None:
    """Register the datasets of this project with detectron2; reads nothing from disk."""
    register_neon_trees(dataset_root())


def register_neon_trees(root: str | os.PathLike) -> None:
    """Register neon_trees_train, _val, _osbs and _val_whole below ``root`` with detectron2.

    Reads nothing from disk: the files are read when a dataset is loaded. Names that are already
    registered keep their registration.

    Args:
        root: folder of all datasets.
    """
    for dataset, folder in NEON_TREES_FOLDERS.items():
        name = f"neon_trees_{dataset}"
        if name in DatasetCatalog:
            continue
        home = os.path.join(root, "neon_trees")
        annotations = os.path.join(home, "annotations", f"{dataset}.json")
        register_coco_instances(name, {}, annotations, os.path.join(home, *folder.split("/")))
        MetadataCatalog.get(name).set(thing_classes=[c["name"] for c in NEON_TREES_CATEGORIES])
