"""Conversion of checkpoints of every published FCOS to checkpoints and configs of fcos_d2."""

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from detectron2.modeling import build_model
from fvcore.common.config import CfgNode
from torch import Tensor

from ..config import FCOSCfgNode, get_cfg, get_config_file
from .files import read_checkpoint
from .formats import adelaidet, detectron2, mmdet, official, torchvision
from .formats.format import Format, State, flatten
from .published import PUBLISHED

__all__ = [
    "FORMATS",
    "Conversion",
    "convert",
    "convert_names",
    "detect_format",
    "list_mismatches",
    "match_counters",
]

logger = logging.getLogger(__name__)

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (official, adelaidet, detectron2, torchvision, mmdet)
}
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Conversion:
    """Result of :func:`convert`.

    Attributes:
        origin: name of the foreign format.
        source: config that the new config is based on.
        weights: path of the new checkpoint.
        config: path of the new config.
        num_tensors: number of tensors in the new checkpoint.
    """

    origin: str
    source: str
    weights: str
    config: str
    num_tensors: int


def detect_format(names: Iterable[str]) -> Format | None:
    """Find the format of tensor names; ``None`` for names of fcos_d2 and unknown names."""
    names = list(names)
    for foreign in FORMATS.values():
        if any(name.startswith(foreign.prefix) for name in names):
            return foreign
    return None


def convert_names(state: Mapping[str, Tensor], foreign: Format) -> State:
    """Rename a foreign state dict to fcos_d2 and drop the tensors that are never read."""
    unused = re.compile(foreign.unused)
    renamed = foreign.convert(dict(state))
    return {key: value for key, value in renamed.items() if not unused.fullmatch(key)}


def match_counters(state: State, model_state: Mapping[str, Tensor]) -> State:
    """Add or drop batch counters of batch norms; frozen norms have none, and nothing reads them."""
    kept = {k: v for k, v in state.items() if k in model_state or not k.endswith(_COUNTER)}
    added = {k: v for k, v in model_state.items() if k.endswith(_COUNTER) and k not in kept}
    return {**kept, **added}


def convert(
    weights: str, output: str, *, origin: str | None = None, config: str | None = None
) -> Conversion:
    """Convert a checkpoint to fcos_d2; writes ``model.pth`` and ``config.yaml``.

    Args:
        weights: path of a foreign checkpoint.
        output: folder of the new files; created if needed.
        origin: name in ``FORMATS``; ``None`` recognizes the format.
        config: a foreign YAML file (official, AdelaiDet), or the name or path of a config of
            fcos_d2; ``None`` finds the config by the file name of a published checkpoint.
            Values inferred from tensors (classes, channels, depths) override the config.

    Returns:
        Paths and origin of the new files.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if the format or config is unknown, or a tensor is left over or missing.
    """
    if not os.path.isfile(weights):
        raise FileNotFoundError(f"no checkpoint {weights!r} (in {os.getcwd()})")
    checkpoint = read_checkpoint(weights)
    foreign = _choose_format(checkpoint, origin, weights)
    state = convert_names(checkpoint["model"], foreign)
    cfg, source = _choose_config(foreign, config, weights)
    cfg.merge_from_list([x for pair in _inferred_options(state).items() for x in pair])
    model_cfg = cfg.clone()
    model_cfg.MODEL.DEVICE = "cpu"
    model_state = build_model(model_cfg).state_dict()
    state = match_counters(state, model_state)
    _check_complete(state, model_state, foreign, source)

    os.makedirs(output, exist_ok=True)
    model_path = os.path.join(output, "model.pth")
    config_path = os.path.join(output, "config.yaml")
    cfg.MODEL.WEIGHTS = model_path
    torch.save({"model": {k: state[k].contiguous() for k in model_state}}, model_path)
    with open(config_path, "w", encoding="utf-8") as file:
        file.write(f"# Converted from {os.path.basename(weights)} ({foreign.name}), by {source}.\n")
        file.write(difference_to_defaults(cfg))
    return Conversion(foreign.name, source, model_path, config_path, len(model_state))


def difference_to_defaults(cfg: FCOSCfgNode) -> str:
    """YAML with the differences from ``get_cfg()``: short, and complete without a base."""
    defaults = flatten(get_cfg())
    tree: dict[str, Any] = {"VERSION": 2}
    for key, value in flatten(cfg).items():
        if key in defaults and defaults[key] == value:
            continue
        *parents, last = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None)


def list_mismatches(state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]) -> list[str]:
    """List tensors that are left over, missing or of another shape, one line each."""
    lines = [f"left over: {k} {tuple(v.shape)}" for k, v in state.items() if k not in model_state]
    lines += [f"missing: {k} {tuple(v.shape)}" for k, v in model_state.items() if k not in state]
    lines += [
        f"shape: {k} is {tuple(v.shape)}, the model's {tuple(model_state[k].shape)}"
        for k, v in state.items()
        if k in model_state and v.shape != model_state[k].shape
    ]
    return lines


def _choose_format(checkpoint: dict, origin: str | None, weights: str) -> Format:
    if origin is not None and origin not in FORMATS:
        raise ValueError(f"unknown format {origin!r}, expected one of {', '.join(FORMATS)}")
    names = list(checkpoint["model"])
    found = detect_format(names)
    if found is None or (origin and found.name != origin):
        is_fcos_d2 = any(name.startswith("head.cls_tower.") for name in names)
        looks = f"{found.name}'s" if found else "fcos_d2's own" if is_fcos_d2 else "no FCOS's"
        expected = f"{origin}'s" if origin else "those of " + ", ".join(FORMATS)
        raise ValueError(
            f"{weights}: the names in it are {looks}, not {expected}; they start with "
            f"{', '.join(names[:3])}"
        )
    return found


def _choose_config(foreign: Format, config: str | None, weights: str) -> tuple[FCOSCfgNode, str]:
    """The config and its name or path."""
    if config is None:
        config = _published_config(foreign, weights) or foreign.default_config
        if config is None:
            raise ValueError(
                f"checkpoints of {foreign.name} do not contain their options, and "
                f"{os.path.basename(weights)!r} is not the name of a published checkpoint. Give "
                "--config: "
                f"{'their YAML, or ' if foreign.read_config else ''}the nearest of these: "
                f"{', '.join(p.config for p in PUBLISHED if p.origin == foreign.name)}"
            )
    if foreign.read_config and os.path.isfile(config) and not _is_fcos_d2_config(config):
        return foreign.read_config(config), config
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    return cfg, config


def _is_fcos_d2_config(path: str) -> bool:
    try:
        model = CfgNode.load_yaml_with_base(path).get("MODEL", {})
    except FileNotFoundError:  # the bases of fcos_d2's configs are always found
        return False
    return model.get("META_ARCHITECTURE", "").startswith("FCOS")


def _published_config(foreign: Format, weights: str) -> str | None:
    name = os.path.basename(weights).split("?")[0]
    return next(
        (p.config for p in PUBLISHED if p.origin == foreign.name and p.file and p.file == name),
        None,
    )


def _inferred_options(state: State) -> dict[str, Any]:
    """Config values that follow from the shapes in a state dict."""
    inferred: dict[str, Any] = {}
    if "head.cls_logits.bias" in state:
        inferred["MODEL.FCOS.NUM_CLASSES"] = len(state["head.cls_logits.bias"])
    for tower, key in (("share", "SHARE"), ("cls", "CLS"), ("bbox", "BOX")):
        convs = [
            k
            for k, v in state.items()
            if k.startswith(f"head.{tower}_tower.") and v.dim() == 4 and ".offset." not in k
        ]
        inferred[f"MODEL.FCOS.NUM_{key}_CONVS"] = len(convs)
    inferred["MODEL.FCOS.USE_DEFORMABLE"] = any("_tower." in k and ".offset." in k for k in state)
    lateral = next((v for k, v in state.items() if k.startswith("backbone.fpn_lateral")), None)
    if lateral is not None:
        inferred["MODEL.FPN.OUT_CHANNELS"] = len(lateral)
    if "backbone.bottom_up.stem.conv1.weight" in state:
        inferred.update(_inferred_resnet_options(state))
    return inferred


def _inferred_resnet_options(state: State) -> dict[str, Any]:
    prefix = "backbone.bottom_up."
    blocks = [
        len({k.split(".")[3] for k in state if k.startswith(f"{prefix}res{s}.")})
        for s in (2, 3, 4, 5)
    ]
    bottleneck = f"{prefix}res2.0.conv3.weight" in state
    known: dict[tuple[int, ...], int] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
    if not bottleneck:
        known = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
    if tuple(blocks) not in known:
        raise ValueError(f"detectron2 has no ResNet with {blocks} blocks in its stages")
    last = state[f"{prefix}res2.0.conv{3 if bottleneck else 2}.weight"]
    inferred: dict[str, Any] = {
        "DEPTH": known[tuple(blocks)],
        "STEM_OUT_CHANNELS": len(state[f"{prefix}stem.conv1.weight"]),
        "RES2_OUT_CHANNELS": len(last),
    }
    if bottleneck:
        middle = state[f"{prefix}res2.0.conv2.weight"]
        inferred["NUM_GROUPS"] = len(middle) // middle.shape[1]
        inferred["WIDTH_PER_GROUP"] = middle.shape[1]
    offsets = [state.get(f"{prefix}res{s}.0.conv2_offset.bias") for s in (2, 3, 4, 5)]
    inferred["DEFORM_ON_PER_STAGE"] = [o is not None for o in offsets]
    widths = {len(o) for o in offsets if o is not None}
    if widths in ({18}, {27}):
        inferred["DEFORM_MODULATED"] = widths == {27}
    return {f"MODEL.RESNETS.{key}": value for key, value in inferred.items()}


def _check_complete(
    state: State, model_state: Mapping[str, Tensor], foreign: Format, source: str
) -> None:
    lines = list_mismatches(state, model_state)
    if lines:
        raise ValueError(
            f"this {foreign.name} checkpoint does not fit {source}; give --config the config "
            f"of its training. {len(lines)} tensors do not fit (names of fcos_d2):\n  "
            + "\n  ".join(lines[:40])
            + (f"\n  ... and {len(lines) - 40} more" if len(lines) > 40 else "")
        )
