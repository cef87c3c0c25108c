"""Checkpoints of every published FCOS as checkpoints and configs of this one."""

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
    "detect_format",
    "fit_names",
    "tensors_that_do_not_fit",
    "to_ours",
]

logger = logging.getLogger(__name__)

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (official, adelaidet, detectron2, torchvision, mmdet)
}
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` made.

    Attributes:
        origin: name of the format.
        source: the config it was based on.
        weights: path of the checkpoint.
        config: path of its config.
        num_tensors: in the checkpoint.
    """

    origin: str
    source: str
    weights: str
    config: str
    num_tensors: int


def detect_format(names: Iterable[str]) -> Format | None:
    """The format whose mark some name has; ``None`` for our own and unknown ones."""
    names = list(names)
    for form in FORMATS.values():
        if any(name.startswith(form.mark) for name in names):
            return form
    return None


def to_ours(state: Mapping[str, Tensor], form: Format) -> State:
    """A foreign state dict under our names, without the tensors its models never read."""
    unused = re.compile(form.unused)
    renamed = form.to_ours(dict(state))
    return {key: value for key, value in renamed.items() if not unused.fullmatch(key)}


def fit_names(state: State, own: Mapping[str, Tensor]) -> State:
    """Drop or add counters of batch norms, which frozen ones lack and nothing depends on."""
    kept = {k: v for k, v in state.items() if k in own or not k.endswith(_COUNTER)}
    added = {k: v for k, v in own.items() if k.endswith(_COUNTER) and k not in kept}
    return {**kept, **added}


def convert(
    weights: str, output: str, *, origin: str | None = None, config: str | None = None
) -> Conversion:
    """Convert a checkpoint; writes ``model.pth`` and ``config.yaml``.

    Args:
        weights: local file of a foreign checkpoint.
        output: folder to write to.
        origin: name in ``FORMATS``; ``None`` recognises it.
        config: a foreign YAML (official, AdelaiDet), or the name or path of one of ours;
            ``None`` takes it from the file name if that is one of a published model. Sizes that
            the tensors tell (classes, channels, depths) win over it.

    Raises:
        FileNotFoundError: for a file that is not there.
        ValueError: if the format or config stays unknown, or a tensor is left over or missing.
    """
    if not os.path.isfile(weights):
        raise FileNotFoundError(f"no checkpoint {weights!r} (in {os.getcwd()})")
    checkpoint = read_checkpoint(weights)
    form = _choose_format(checkpoint, origin, weights)
    state = to_ours(checkpoint["model"], form)
    cfg, source = _choose_config(form, config, weights)
    cfg.merge_from_list([x for pair in _told_by_tensors(state).items() for x in pair])
    model_cfg = cfg.clone()
    model_cfg.MODEL.DEVICE = "cpu"
    own = build_model(model_cfg).state_dict()
    state = fit_names(state, own)
    _check_complete(state, own, form, source)

    os.makedirs(output, exist_ok=True)
    model_path = os.path.join(output, "model.pth")
    config_path = os.path.join(output, "config.yaml")
    cfg.MODEL.WEIGHTS = model_path
    torch.save({"model": {k: state[k].contiguous() for k in own}}, model_path)
    with open(config_path, "w", encoding="utf-8") as file:
        file.write(f"# Converted from {os.path.basename(weights)} ({form.name}), by {source}.\n")
        file.write(difference_to_defaults(cfg))
    return Conversion(form.name, source, model_path, config_path, len(own))


def difference_to_defaults(cfg: FCOSCfgNode) -> str:
    """YAML of what differs from ``get_cfg()``: short, and complete without a base."""
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


def tensors_that_do_not_fit(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """What is left over, missing or of another shape, a line each."""
    lines = [f"left over: {k} {tuple(v.shape)}" for k, v in state.items() if k not in own]
    lines += [f"missing: {k} {tuple(v.shape)}" for k, v in own.items() if k not in state]
    lines += [
        f"shape: {k} is {tuple(v.shape)}, the model's {tuple(own[k].shape)}"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    return lines


def _choose_format(checkpoint: dict, origin: str | None, weights: str) -> Format:
    if origin is not None and origin not in FORMATS:
        raise ValueError(f"unknown format {origin!r}, expected one of {', '.join(FORMATS)}")
    names = list(checkpoint["model"])
    found = detect_format(names)
    if found is None or (origin and found.name != origin):
        is_ours = any(name.startswith("head.cls_tower.") for name in names)
        looks = f"{found.name}'s" if found else "fcos_d2's own" if is_ours else "no FCOS's"
        wanted = f"{origin}'s" if origin else "those of " + ", ".join(FORMATS)
        raise ValueError(
            f"{weights}: the names in it are {looks}, not {wanted}; they start with "
            f"{', '.join(names[:3])}"
        )
    return found


def _choose_config(form: Format, config: str | None, weights: str) -> tuple[FCOSCfgNode, str]:
    """The config and where it came from."""
    if config is None:
        config = _published_config(form, weights) or form.default_config
        if config is None:
            raise ValueError(
                f"the weights of {form.name} do not tell their own options, and the name "
                f"{os.path.basename(weights)!r} is none that was published. Give --config: "
                f"{'their YAML, or ' if form.read_config else ''}the nearest of these: "
                f"{', '.join(p.config for p in PUBLISHED if p.origin == form.name)}"
            )
    if form.read_config and os.path.isfile(config) and not _is_ours(config):
        return form.read_config(config), config
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    return cfg, config


def _is_ours(path: str) -> bool:
    try:
        model = CfgNode.load_yaml_with_base(path).get("MODEL", {})
    except FileNotFoundError:  # ours have their bases beside them
        return False
    return model.get("META_ARCHITECTURE", "").startswith("FCOS")


def _published_config(form: Format, weights: str) -> str | None:
    name = os.path.basename(weights).split("?")[0]
    return next(
        (p.config for p in PUBLISHED if p.origin == form.name and p.file and p.file == name), None
    )


def _told_by_tensors(state: State) -> dict[str, Any]:
    """Config values that the shapes in a state dict leave no choice about."""
    told: dict[str, Any] = {}
    if "head.cls_logits.bias" in state:
        told["MODEL.FCOS.NUM_CLASSES"] = len(state["head.cls_logits.bias"])
    for tower, key in (("share", "SHARE"), ("cls", "CLS"), ("bbox", "BOX")):
        convs = [
            k
            for k, v in state.items()
            if k.startswith(f"head.{tower}_tower.") and v.dim() == 4 and ".offset." not in k
        ]
        told[f"MODEL.FCOS.NUM_{key}_CONVS"] = len(convs)
    told["MODEL.FCOS.USE_DEFORMABLE"] = any("_tower." in k and ".offset." in k for k in state)
    lateral = next((v for k, v in state.items() if k.startswith("backbone.fpn_lateral")), None)
    if lateral is not None:
        told["MODEL.FPN.OUT_CHANNELS"] = len(lateral)
    if "backbone.bottom_up.stem.conv1.weight" in state:
        told.update(_resnet_told_by_tensors(state))
    return told


def _resnet_told_by_tensors(state: State) -> dict[str, Any]:
    prefix = "backbone.bottom_up."
    blocks = [
        len({k.split(".")[3] for k in state if k.startswith(f"{prefix}res{s}.")})
        for s in (2, 3, 4, 5)
    ]
    bottleneck = f"{prefix}res2.0.conv3.weight" in state
    known = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
    if not bottleneck:
        known = {(2, 2, 2, 2): 18, (3, 4, 6, 3): 34}
    if tuple(blocks) not in known:
        raise ValueError(f"a ResNet with {blocks} blocks in its stages is none of detectron2's")
    last = state[f"{prefix}res2.0.conv{3 if bottleneck else 2}.weight"]
    told = {
        "DEPTH": known[tuple(blocks)],
        "STEM_OUT_CHANNELS": len(state[f"{prefix}stem.conv1.weight"]),
        "RES2_OUT_CHANNELS": len(last),
    }
    if bottleneck:
        middle = state[f"{prefix}res2.0.conv2.weight"]
        told["NUM_GROUPS"] = len(middle) // middle.shape[1]
        told["WIDTH_PER_GROUP"] = middle.shape[1]
    offsets = [state.get(f"{prefix}res{s}.0.conv2_offset.bias") for s in (2, 3, 4, 5)]
    told["DEFORM_ON_PER_STAGE"] = [o is not None for o in offsets]
    widths = {len(o) for o in offsets if o is not None}
    if widths in ({18}, {27}):
        told["DEFORM_MODULATED"] = widths == {27}
    return {f"MODEL.RESNETS.{key}": value for key, value in told.items()}


def _check_complete(state: State, own: Mapping[str, Tensor], form: Format, source: str) -> None:
    lines = tensors_that_do_not_fit(state, own)
    if lines:
        raise ValueError(
            f"this {form.name} checkpoint is no model of {source}; give --config the one it was "
            f"trained with. {len(lines)} tensors do not fit (under our names):\n  "
            + "\n  ".join(lines[:40])
            + (f"\n  ... and {len(lines) - 40} more" if len(lines) > 40 else "")
        )
