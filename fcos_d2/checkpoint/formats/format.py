"""What every foreign checkpoint format has to say of itself, and helpers to say it."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...config import FCOSCfgNode, get_cfg, get_config_file, has_key
from ...modeling.compat import Compat

__all__ = ["RESNET_RULES", "Format", "flatten", "map_config", "minus_eps", "rename"]

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True)
class Format:
    """A code base that published FCOS checkpoints.

    Attributes:
        name: as ``fcos-d2 convert --from`` knows it.
        mark: a prefix that names of its checkpoints, and of no other format's, have.
        to_ours: its state dict under our names, and as our layers expect it.
        compat: the conventions its models need in ``MODEL.FCOS.COMPAT``.
        unused: pattern of tensors, under our names, that its models never read.
        read_config: its config file as one of ours; ``None`` where configs are programs.
        default_config: of ours, where the format has a single model; otherwise ``None``.
    """

    name: str
    mark: str
    to_ours: Callable[[State], State]
    compat: Compat
    unused: str = r"(?!)"
    read_config: Callable[[str], FCOSCfgNode] | None = None
    default_config: str | None = None


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> State:
    """Apply every ``(pattern, replacement)`` in turn to every name.

    Raises:
        ValueError: if two tensors get one name.
    """
    renamed: State = {}
    for old, tensor in state.items():
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise ValueError(f"{old!r} and another tensor of the checkpoint would both be {new!r}")
        renamed[new] = tensor
    return renamed


# torchvision's and Caffe2's names of a ResNet's layers -> detectron2's, below the backbone.
RESNET_RULES: Sequence[Rule] = (
    (r"^backbone\.bottom_up\.(conv|bn)1\.", r"backbone.bottom_up.stem.\g<1>1."),
    (r"^(backbone\.bottom_up\.)layer(\d)\.", lambda m: f"{m[1]}res{int(m[2]) + 1}."),
    (r"^(backbone\.bottom_up\..*\.)bn(\d)\.", r"\1conv\2.norm."),
    (r"^(backbone\.bottom_up\..*\.)downsample\.0\.", r"\1shortcut."),
    (r"^(backbone\.bottom_up\..*\.)downsample\.1\.", r"\1shortcut.norm."),
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested config -> {dotted key: value}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def map_config(
    theirs: Mapping[str, Any],
    base: str,
    rules: Mapping[str, str | Callable[[Any], dict[str, Any]] | None],
    same: Callable[[str], bool] = lambda key: False,
) -> FCOSCfgNode:
    """A foreign config on top of one of ours.

    Args:
        theirs: {dotted key: value}.
        base: name of our config that holds the format's defaults.
        rules: for each foreign key the key it has here, a function from its value to
            {our key: value}, or ``None`` if it means nothing here.
        same: tells the keys that mean the same here.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(base))
    overrides: dict[str, Any] = {}
    ignored = []
    for key, value in theirs.items():
        rule = rules.get(key, key if same(key) and has_key(cfg, key) else "?")
        if rule == "?":
            ignored.append(key)
        elif callable(rule):
            overrides.update(rule(value))
        elif rule is not None:
            overrides[rule] = value
    if ignored:
        logger.warning("Config keys without a meaning here, ignored: %s", ", ".join(ignored))
    cfg.merge_from_list([x for pair in overrides.items() for x in pair])
    return cfg


def minus_eps(state: State, eps: float = 1e-5) -> State:
    """Statistics of batch norms that divide by ``sqrt(var)`` for ones that add ``eps`` first."""
    frozen = {
        key: value - eps
        for key, value in state.items()
        if key.endswith(".running_var")
        and key.replace("running_var", "num_batches_tracked") not in state
    }
    return {**state, **frozen}
