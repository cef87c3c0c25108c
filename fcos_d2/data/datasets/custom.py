"""Datasets that need no code: COCO, Pascal VOC and YOLO files named in the config."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from ...utils.files import nearest, replacing
from .coco import coco_classes
from .files import CocoData, DatasetFiles, make_stamp
from .voc import DIFFICULT, read_voc, voc_files
from .yolo import read_yolo, yolo_files

__all__ = ["CustomDataset", "register_custom"]

logger = logging.getLogger(__name__)

# Version of the converted files; increase it with every change of their content.
_VERSION = 1

# Format -> its keys: required, optional.
_KEYS = {
    "json": (("name", "json", "images"), ()),
    "voc": (("name", "voc", "split"), ("difficult", "classes")),
    "yolo": (("name", "yolo", "split"), ()),
}
_PATHS = ("json", "images", "voc", "yolo")


@dataclass(frozen=True)
class CustomDataset:
    """A registered dataset; calling it loads the records, as detectron2's catalog expects.

    Attributes:
        name: name in the catalogs.
        spec: specification of the dataset, keys sorted, paths absolute.
        json_file: path of the annotations in COCO's format.
        image_root: folder of the images.
        stamp: hash of the specification and of sizes and times of all source files.
    """

    name: str
    spec: tuple[tuple[str, object], ...]
    json_file: str
    image_root: str
    stamp: str

    def __call__(self) -> list[dict]:
        return load_coco_json(self.json_file, self.image_root, self.name)


def register_custom(specs: Sequence[Mapping], cache_dir: str | os.PathLike) -> list[str]:
    """Register datasets with detectron2's catalogs, such as those of ``cfg.DATASETS.CUSTOM``.

    A specification is one of ::

        {"name": "my_train", "json": "train.json", "images": "images"}
        {"name": "my_train", "voc": "VOCdevkit/VOC2007", "split": "train"}
        {"name": "my_train", "yolo": "data.yaml", "split": "train"}

    For VOC the keys ``difficult`` and ``classes`` are optional, see
    :func:`~fcos_d2.data.datasets.voc.read_voc`. VOC and YOLO are converted once to a COCO file in
    ``cache_dir``, and again when a source file or the specification changes. Older conversions
    stay there, because another process may be reading them. Any number of processes may convert
    at the same time. Registering an unchanged dataset again has no effect. All specifications are
    checked before the first one is registered.

    Args:
        specs: specifications; relative paths are relative to the current folder.
        cache_dir: folder of the conversions; created if needed.

    Returns:
        Names of the datasets.

    Raises:
        FileNotFoundError: if a file or a folder is missing; names the specification.
        ValueError: for a wrong specification or a wrong file, and for a name that is taken.
    """
    checked = [_checked(spec) for spec in specs]
    taken: dict[str, dict] = {}
    for spec in checked:
        name = spec["name"]
        if taken.setdefault(name, spec) != spec:
            raise ValueError(f"two datasets are called {name!r}: {taken[name]} and {spec}")
        _check_name(spec)
    datasets = [_prepare(spec, Path(cache_dir)) for spec in taken.values()]
    for dataset, classes in datasets:
        _register(dataset, classes)
    return list(taken)


def _checked(spec: Mapping) -> dict:
    """Copy of a specification with absolute paths and sorted keys.

    Raises:
        ValueError: for unknown, missing or contradictory keys, and for wrong values.
    """
    if not isinstance(spec, Mapping):
        raise ValueError(f"a dataset is described by keys and values, got {spec!r}")
    spec = dict(spec)
    valid = sorted({key for required, optional in _KEYS.values() for key in required + optional})
    for key in spec:
        _check_key(spec, key, valid)
    formats = [key for key in _KEYS if key in spec]
    if len(formats) != 1:
        raise ValueError(f"expected one of {', '.join(_KEYS)} in {spec}, got {len(formats)}")
    required, optional = _KEYS[formats[0]]
    for key in spec:
        _check_key(spec, key, required + optional)
    for key in required:
        if key not in spec:
            raise ValueError(f"no key {key!r} in {spec}")
    for key, value in spec.items():
        spec[key] = _checked_value(spec, key, value)
    return dict(sorted(spec.items()))


def _check_key(spec: dict, key: object, valid: Sequence[str]) -> None:
    if key not in valid:
        hint = nearest(str(key), valid, count=1, cutoff=0)
        raise ValueError(f"unknown key {key!r} in {spec}{hint} (known: {', '.join(valid)})")


def _checked_value(spec: dict, key: str, value: object) -> object:
    if key == "classes":
        names = value if isinstance(value, (list, tuple)) else ()
        is_valid = all(isinstance(name, str) for name in names)
        if not names or not is_valid or len(set(names)) != len(names):
            raise ValueError(f"classes must be a list of different names in {spec}")
        return tuple(names)
    if key in _PATHS and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a text, got {value!r} in {spec}")
    if key == "difficult" and value not in DIFFICULT:
        hint = nearest(value, DIFFICULT, count=1, cutoff=0)
        raise ValueError(f"difficult is {value!r} in {spec}{hint} (known: {', '.join(DIFFICULT)})")
    return os.path.abspath(os.path.expanduser(value)) if key in _PATHS else value


def _check_name(spec: dict) -> None:
    """Raise ValueError if the name belongs to another dataset."""
    name = spec["name"]
    if name not in DatasetCatalog:
        return
    loader = DatasetCatalog[name]
    if isinstance(loader, CustomDataset):
        if dict(loader.spec) != spec:
            raise ValueError(
                f"{name!r} is registered already, from {dict(loader.spec)}, and cannot also be "
                f"{spec}; choose another name"
            )
        return
    origin = MetadataCatalog.get(name).get("json_file") or getattr(loader, "__module__", "unknown")
    raise ValueError(
        f"{name!r} is a dataset of detectron2 or other code ({origin}), and cannot also be {spec}; "
        "choose another name"
    )


def _prepare(spec: dict, cache_dir: Path) -> tuple[CustomDataset, list[str] | None]:
    """Convert a dataset if needed; its classes are None if it is registered and unchanged."""
    name = spec["name"]
    try:
        sources = _source_files(spec)
        stamp = make_stamp([_VERSION, spec], sources.files)
        known = DatasetCatalog.data.get(name)
        if known is not None and known.stamp == stamp and os.path.isfile(known.json_file):
            return known, None
        json_file = spec.get("json") or _converted(spec, stamp, cache_dir)
        classes = coco_classes(json_file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"dataset {name}: {error} (from {spec})") from error
    except ValueError as error:
        raise ValueError(f"dataset {name}: {error} (from {spec})") from error
    root = str(sources.image_root)
    return CustomDataset(name, tuple(spec.items()), str(json_file), root, stamp), classes


def _source_files(spec: dict) -> DatasetFiles:
    if "voc" in spec:
        return voc_files(spec["voc"], spec["split"])
    if "yolo" in spec:
        return yolo_files(spec["yolo"], spec["split"])
    for key, exists in (("json", os.path.isfile), ("images", os.path.isdir)):
        if not exists(spec[key]):
            raise FileNotFoundError(f"no {key} {spec[key]}")
    return DatasetFiles(Path(spec["images"]), [Path(spec["json"])])


def _converted(spec: dict, stamp: str, cache_dir: Path) -> Path:
    """Path of the COCO file of a VOC or YOLO dataset; the stamp in its name identifies it."""
    safe_name = re.sub(r"[^\w.-]", "_", spec["name"])
    path = cache_dir.absolute() / f"{safe_name}-{stamp[:16]}.json"
    if path.is_file():
        return path
    content = _read(spec).content
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, encoding="utf-8") as file:
        file.write(json.dumps(content))
    counts = (len(content[part]) for part in ("images", "annotations", "categories"))
    logger.info("Made %s: %d images, %d boxes, %d classes", path, *counts)
    return path


def _read(spec: dict) -> CocoData:
    if "yolo" in spec:
        return read_yolo(spec["yolo"], spec["split"])
    options = {key: spec[key] for key in ("difficult", "classes") if key in spec}
    return read_voc(spec["voc"], spec["split"], **options)


def _register(dataset: CustomDataset, classes: list[str] | None) -> None:
    if classes is None:
        return
    name = dataset.name
    if name in DatasetCatalog:
        logger.warning("The files of %s have changed: registering the dataset again", name)
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    values = {
        "json_file": dataset.json_file,
        "image_root": dataset.image_root,
        "evaluator_type": "coco",
        "thing_classes": classes,
    }
    metadata = MetadataCatalog.get(name)
    for key, value in values.items():
        if metadata.get(key, value) != value:  # an assertion error in detectron2
            raise ValueError(
                f"the metadata of {name} say {key} is {metadata.get(key)!r}, but "
                f"{dict(dataset.spec)} gives {value!r}; choose another name"
            )
    metadata.set(**values)
    DatasetCatalog.register(name, dataset)
