"""The data sets that this project knows by name."""

import os

from .neon_trees import register_neon_trees

__all__ = ["dataset_root", "register_datasets"]


def dataset_root() -> str:
    """Folder of all data sets: ``DETECTRON2_DATASETS``, or ``datasets`` in the working folder."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


def register_datasets() -> None:
    """Make our data sets known to detectron2's catalogs; reads nothing from disk."""
    register_neon_trees(dataset_root())
