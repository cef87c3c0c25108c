"""Metadata of an exported model, in a JSON file beside it: everything that its user needs."""

import json
from pathlib import Path

from ..inference.predictor import Predictor
from ..modeling.backbone.size import size_divisibility
from ..modeling.build import conventions
from ..utils.doctor import installed_versions
from ..version import __version__
from .save import INPUTS, OUTPUTS, VARIANTS

__all__ = ["FORMAT_VERSION", "describe", "read_metadata", "write_metadata"]

FORMAT_VERSION = 1
_PACKAGES = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime")


def describe(predictor: Predictor, *, kind: str, nms: str, min_score: float, source: str) -> dict:
    """Describe an exported model in plain values for JSON; see ``export_model``."""
    cfg, model = predictor.cfg, predictor.model
    options, compat = model.postprocess, conventions(model)
    versions = {name: version for name, version in installed_versions(_PACKAGES).items() if version}
    sizes = {"classes": model.head.num_classes}
    if options.max_detections >= 0:
        most = options.topk_per_level * len(model.strides)
        sizes["detections"] = min(options.max_detections, most)
    return {
        "format_version": FORMAT_VERSION,
        "format": kind,
        "flavour": VARIANTS[nms],  # name of this key since version 0.1
        "nms": nms,
        "class_names": predictor.class_names,
        "category_ids": predictor.category_ids,
        "inputs": _tensors(INPUTS, {}),
        "outputs": _tensors(OUTPUTS[nms], sizes),
        "channel_order": cfg.INPUT.FORMAT,
        "pixel_range": [0, 255],
        "normalization_inside": True,
        "pixel_mean": model.pixel_mean.flatten().tolist(),
        "pixel_std": model.pixel_std.flatten().tolist(),
        "resize": {
            "min_size": cfg.INPUT.MIN_SIZE_TEST,
            "max_size": cfg.INPUT.MAX_SIZE_TEST,
            "rule": "scale the shorter side to min_size, or less if the longer side would pass "
            "max_size; sides are rounded half up; min_size 0 keeps the size",
            "interpolation": "bilinear with antialiasing (Pillow's)",
        },
        "size_divisibility": size_divisibility(model.backbone),
        "strides": list(model.strides),
        "score": "class x quality probability" + ("" if options.product_scores else ", its root"),
        "score_threshold": options.score_threshold,
        "min_score": min_score,
        "nms_type": options.nms_type,
        "nms_threshold": options.nms_threshold,
        "topk_per_level": options.topk_per_level,
        "max_detections": options.max_detections,
        "added_to_x2_y2_after_scaling": int(options.one_pixel_boxes),
        "compat": {name: True for name, value in vars(compat).items() if value},
        "source": source,
        "versions": {"fcos_d2": __version__, **versions},
    }


def write_metadata(exported: Path, values: dict) -> None:
    """Write metadata beside an exported file: ``model.json`` for ``model.onnx``."""
    exported.with_suffix(".json").write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def read_metadata(exported: str | Path) -> dict:
    """Read the metadata of an exported file.

    Raises:
        FileNotFoundError: if the file has no metadata.
        ValueError: if the metadata have another format version.
    """
    path = Path(exported).with_suffix(".json")
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} beside {exported}: `fcos-d2 export` writes both")
    values = json.loads(path.read_text("utf-8"))
    if values.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} is of format version {values.get('format_version')}, this fcos_d2 reads "
            f"{FORMAT_VERSION}: export again"
        )
    for nms, variant in VARIANTS.items():  # version 0.1 wrote "flavour" only
        if values.get("flavour") == variant:
            values.setdefault("nms", nms)
    return values


def _tensors(tensors: dict, sizes: dict[str, int]) -> list[dict]:
    """Names, types and shapes; a name in a shape is a free dimension."""
    return [
        {"name": name, "dtype": dtype, "shape": [sizes.get(side, side) for side in shape]}
        for name, (dtype, shape) in tensors.items()
    ]
