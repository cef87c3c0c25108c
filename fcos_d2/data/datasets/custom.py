"""Data sets that need no code: COCO, Pascal VOC and YOLO files named in the config."""

import difflib
import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json

from .coco import coco_classes
from .files import CocoData, Sources
from .voc import DIFFICULT, read_voc, voc_sources
from .yolo import read_yolo, yolo_sources

__all__ = ["CustomDataset", "register_custom"]

logger = logging.getLogger(__name__)

_VERSION = 1  # of what the conversion writes; raise it with any change there

# Format -> its keys, needed and optional.
_KEYS = {
    "json": (("name", "json", "images"), ()),
    "voc": (("name", "voc", "split"), ("difficult", "classes")),
    "yolo": (("name", "yolo", "split"), ()),
}
_PATHS = ("json", "images", "voc", "yolo")


@dataclass(frozen=True)
class CustomDataset:
    """A registered data set: calling it loads it, as detectron2's catalog wants.

    Attributes:
        name: in the catalogs.
        spec: what it was registered from, keys sorted, paths absolute.
        json_file: annotations in COCO's format.
        image_root: folder of the images.
        stamp: hash of the spec and of sizes and times of all files it was made from.
    """

    name: str
    spec: tuple[tuple[str, object], ...]
    json_file: str
    image_root: str
    stamp: str

    def __call__(self) -> list[dict]:
        return load_coco_json(self.json_file, self.image_root, self.name)


def register_custom(specs: Sequence[Mapping], cache_dir: str | os.PathLike) -> list[str]:
    """Register data sets with detectron2's catalogs, such as those of ``cfg.DATASETS.CUSTOM``.

    A spec is one of ::

        {"name": "my_train", "json": "train.json", "images": "images"}
        {"name": "my_train", "voc": "VOCdevkit/VOC2007", "split": "train"}
        {"name": "my_train", "yolo": "data.yaml", "split": "train"}

    that of VOC optionally with ``difficult`` and ``classes``, see
    :func:`~fcos_d2.data.voc.read_voc`. VOC and YOLO are converted once to a COCO file in
    ``cache_dir``, and again when one of their files or the spec changes; older conversions stay
    there, because another process may be reading them. Any number of processes may do this at the
    same time. Specs that are registered already change nothing, unless their files did. All specs
    are checked before the first one is registered.

    Args:
        specs: any number; relative paths are relative to the current folder.
        cache_dir: made if it is needed and missing.

    Returns:
        Their names.

    Raises:
        FileNotFoundError: naming the spec and what is missing.
        ValueError: for a spec or a file that is wrong, and for a name that is taken.
    """
    checked = [_checked(spec) for spec in specs]
    taken = {}
    for spec in checked:
        name = spec["name"]
        if taken.setdefault(name, spec) != spec:
            raise ValueError(f"two data sets are called {name!r}: {taken[name]} and {spec}")
        _check_name(spec)
    datasets = [_prepare(spec, Path(cache_dir)) for spec in taken.values()]
    for dataset, classes in datasets:
        _register(dataset, classes)
    return list(taken)


def _checked(spec: Mapping) -> dict:
    """The spec with absolute paths, keys sorted.

    Raises:
        ValueError: for keys that are unknown, missing or contradictory, and wrong values.
    """
    if not isinstance(spec, Mapping):
        raise ValueError(f"a data set is described by keys and values, got {spec!r}")
    spec = dict(spec)
    valid = sorted({key for needed, optional in _KEYS.values() for key in needed + optional})
    for key in spec:
        _check_key(spec, key, valid)
    formats = [key for key in _KEYS if key in spec]
    if len(formats) != 1:
        raise ValueError(f"expected one of {', '.join(_KEYS)} in {spec}, got {len(formats)}")
    needed, optional = _KEYS[formats[0]]
    for key in spec:
        _check_key(spec, key, needed + optional)
    for key in needed:
        if key not in spec:
            raise ValueError(f"no key {key!r} in {spec}")
    for key, value in spec.items():
        spec[key] = _checked_value(spec, key, value)
    return dict(sorted(spec.items()))


def _check_key(spec: dict, key: object, valid: Sequence[str]) -> None:
    if key not in valid:
        nearest = difflib.get_close_matches(str(key), valid, n=1, cutoff=0)[0]
        raise ValueError(
            f"unknown key {key!r} in {spec}; nearest: {nearest} (known: {', '.join(valid)})"
        )


def _checked_value(spec: dict, key: str, value: object) -> object:
    if key == "classes":
        right = isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value)
        if not right or not value or len(set(value)) != len(value):
            raise ValueError(f"classes must be a list of different names in {spec}")
        return tuple(value)
    if key in _PATHS and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{key} must be a text, got {value!r} in {spec}")
    if key == "difficult" and value not in DIFFICULT:
        nearest = difflib.get_close_matches(value, DIFFICULT, n=1, cutoff=0)[0]
        raise ValueError(
            f"difficult is {value!r} in {spec}; nearest: {nearest} (known: {', '.join(DIFFICULT)})"
        )
    return os.path.abspath(os.path.expanduser(value)) if key in _PATHS else value


def _check_name(spec: dict) -> None:
    """Raises ValueError if the name belongs to another data set."""
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
    place = MetadataCatalog.get(name).get("json_file") or getattr(loader, "__module__", "elsewhere")
    raise ValueError(
        f"{name!r} is a data set of detectron2 or other code ({place}), and cannot also be {spec}; "
        "choose another name"
    )


def _prepare(spec: dict, cache_dir: Path) -> tuple[CustomDataset, list[str] | None]:
    """Convert if needed; returns the data set and its classes, None if registered unchanged."""
    name = spec["name"]
    try:
        sources = _sources(spec)
        stamp = _stamp(spec, sources)
        known = DatasetCatalog.data.get(name)
        if known is not None and known.stamp == stamp and os.path.isfile(known.json_file):
            return known, None
        json_file = spec.get("json") or _converted(spec, stamp, cache_dir)
        classes = coco_classes(json_file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data set {name}: {error} (from {spec})") from error
    except ValueError as error:
        raise ValueError(f"data set {name}: {error} (from {spec})") from error
    root = str(sources.image_root)
    return CustomDataset(name, tuple(spec.items()), str(json_file), root, stamp), classes


def _sources(spec: dict) -> Sources:
    if "voc" in spec:
        return voc_sources(spec["voc"], spec["split"])
    if "yolo" in spec:
        return yolo_sources(spec["yolo"], spec["split"])
    for key, exists in (("json", os.path.isfile), ("images", os.path.isdir)):
        if not exists(spec[key]):
            raise FileNotFoundError(f"no {key} {spec[key]}")
    return Sources(Path(spec["images"]), [Path(spec["json"])])


def _stamp(spec: dict, sources: Sources) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, spec]).encode())
    for path in sources.files:
        status = path.stat()
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _converted(spec: dict, stamp: str, cache_dir: Path) -> Path:
    """The COCO file of a VOC or YOLO spec; its name tells what it was made from."""
    safe_name = re.sub(r"[^\w.-]", "_", spec["name"])
    path = cache_dir.absolute() / f"{safe_name}-{stamp[:16]}.json"
    if path.is_file():
        return path
    content = _read(spec).content
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by tempfile, whose files no one else may read.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
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
        logger.warning("The files of %s have changed: registering it anew", name)
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
        if metadata.get(key, value) != value:  # detectron2 would stop with an assertion
            raise ValueError(
                f"the metadata of {name} say {key} is {metadata.get(key)!r}, but its spec "
                f"{dict(dataset.spec)} gives {value!r}; choose another name"
            )
    metadata.set(**values)
    DatasetCatalog.register(name, dataset)
