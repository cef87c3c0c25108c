"""Checks that stop a doomed run before the model is built."""

import logging
import os
from collections.abc import Sequence

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from ..data.datasets.coco import coco_classes
from ..data.loader import load_records
from ..utils.files import nearest

__all__ = [
    "check_batch",
    "check_datasets",
    "check_test_sets",
    "class_names",
    "warn_of_keys_without_effect",
    "warn_of_shared_images",
]

logger = logging.getLogger(__name__)

_OTHER_DETECTORS = (
    "MODEL.RETINANET.",
    "MODEL.ROI_",
    "MODEL.RPN.",
    "MODEL.ANCHOR_GENERATOR.",
    "MODEL.PROPOSAL_GENERATOR.",
)


def check_datasets(num_classes: int, names: Sequence[str]) -> None:
    """Check that every dataset exists and has as many categories as the model has classes.

    Raises:
        KeyError: for an unknown dataset, naming the nearest.
        FileNotFoundError: if its annotations or images are missing.
        ValueError: if the numbers of classes differ, or two datasets have different classes.
    """
    seen: dict[str, list[str]] = {}
    for name in names:
        classes = class_names(name)
        if classes is None:
            continue
        if len(classes) != num_classes:
            listed = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
            raise ValueError(
                f"MODEL.FCOS.NUM_CLASSES is {num_classes}, but the dataset {name} has "
                f"{len(classes)} ({listed}). Add to the command: "
                f"MODEL.FCOS.NUM_CLASSES {len(classes)}"
            )
        seen[name] = classes
    first = next(iter(seen), "")
    for name, classes in seen.items():
        if classes != seen[first]:
            raise ValueError(
                f"{name} and {first} have different classes: {classes} and {seen[first]}. Class i "
                "must mean the same in both: give both JSON files the same categories"
            )


def check_batch(ims_per_batch: int, accumulate: int = 1) -> None:
    """Check that the batch divides evenly among processes and into micro-batches.

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


def check_test_sets(names: Sequence[str]) -> list[dict]:
    """Check that every test set can be read and has annotations; return all their records.

    Raises:
        ValueError: naming the test set without annotations.
    """
    everything = []
    for name in names:
        records = load_records([name])
        everything += records
        if not any(r.get("annotations") for r in records):
            raise ValueError(
                f"the test set {name} has no annotations, so no AP can be computed (COCO's "
                "test-dev has none). Name another one in DATASETS.TEST, or train with --skip-test"
            )
    return everything


def warn_of_shared_images(trained: Sequence[dict], tested: Sequence[dict]) -> None:
    """Warn of images that are in both sets, which make AP look better than it is."""
    files = {record["file_name"] for record in trained}
    shared = sorted(files & {record["file_name"] for record in tested})
    if shared:
        logger.warning(
            "%d of %d test images are also trained on, such as %s: AP will look too good",
            len(shared),
            len(tested),
            shared[0],
        )


def warn_of_keys_without_effect(keys: Sequence[str]) -> None:
    """Warn of keys of other detectors, which every detectron2 config has and FCOS ignores."""
    idle = [key for key in keys if str(key).startswith(_OTHER_DETECTORS)]
    if idle:
        logger.warning("No effect on FCOS: %s. Its keys are those of MODEL.FCOS", ", ".join(idle))


def class_names(name: str) -> list[str] | None:
    """Class names of a registered dataset by category id; None if only loading it can tell them.

    Raises:
        KeyError: for an unknown dataset, naming the nearest.
        FileNotFoundError: if its annotations or image folder are missing.
        ValueError: if the annotations are not in COCO's format.
    """
    if name not in DatasetCatalog:
        raise KeyError(
            f"no dataset {name!r} is registered{nearest(name, DatasetCatalog.list())}. "
            "--train-json, --yolo and --voc name your own files, and so does DATASETS.CUSTOM"
        )
    metadata = MetadataCatalog.get(name)
    json_file, image_root = metadata.get("json_file"), metadata.get("image_root")
    for kind, path in (("annotations", json_file), ("images", image_root)):
        if path and "://" not in path and not os.path.exists(path):
            raise FileNotFoundError(f"the {kind} of {name} are missing: {path} ({_hint(name)})")
    classes = metadata.get("thing_classes")
    if classes is None and json_file and os.path.isfile(json_file):
        classes = coco_classes(json_file)
    return None if classes is None else list(classes)


def _hint(name: str) -> str:
    if name.startswith("neon_trees_"):
        return "`python -m fcos_d2 quickstart` (or `make quickstart`) makes them"
    return "check the registration, or DETECTRON2_DATASETS for the built-in datasets"
