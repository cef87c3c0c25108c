"""Description of a foreign checkpoint format, and helpers to define one."""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...config import FCOSCfgNode, get_cfg, get_config_file, has_key
from ...modeling.compat import Compat

__all__ = ["RESNET_RULES", "Format", "flatten", "map_config", "rename", "subtract_eps"]

logger = logging.getLogger(__name__)

State = dict[str, Tensor]
Rule = tuple[str, str | Callable[[re.Match], str]]


@dataclass(frozen=True)
class Format:
    """A code base that published FCOS checkpoints.

    Attributes:
        name: name for ``fcos-d2 convert --from``.
        prefix: beginning of tensor names that occurs only in checkpoints of this format.
        convert: function from a foreign state dict to the names and layouts of fcos_d2.
        compat: conventions that models of this format need in ``MODEL.FCOS.COMPAT``.
        unused: regular expression for tensors, by their names in fcos_d2, that the foreign model
            never reads.
        read_config: function from a foreign config file to a config of fcos_d2; ``None`` if
            foreign configs are programs.
        default_config: config of fcos_d2 if the format has only one model; otherwise ``None``.
    """

    name: str
    prefix: str
    convert: Callable[[State], State]
    compat: Compat
    unused: str = r"(?!)"
    read_config: Callable[[str], FCOSCfgNode] | None = None
    default_config: str | None = None


def rename(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> State:
    """Apply all ``(pattern, replacement)`` rules, in their order, to all names.

    Raises:
        ValueError: if two tensors get the same name.
    """
    renamed: State = {}
    for old, tensor in state.items():
        new = old
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise ValueError(f"{old!r} and another tensor of the checkpoint both become {new!r}")
        renamed[new] = tensor
    return renamed


# ResNet layers: names of torchvision and Caffe2 -> names of detectron2, inside the backbone.
RESNET_RULES: Sequence[Rule] = (
    (r"^backbone\.bottom_up\.(conv|bn)1\.", r"backbone.bottom_up.stem.\g<1>1."),
    (r"^(backbone\.bottom_up\.)layer(\d)\.", lambda m: f"{m[1]}res{int(m[2]) + 1}."),
    (r"^(backbone\.bottom_up\..*\.)bn(\d)\.", r"\1conv\2.norm."),
    (r"^(backbone\.bottom_up\..*\.)downsample\.0\.", r"\1shortcut."),
    (r"^(backbone\.bottom_up\..*\.)downsample\.1\.", r"\1shortcut.norm."),
)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert a nested config to {dotted key: value}."""
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def map_config(
    foreign: Mapping[str, Any],
    base: str,
    rules: Mapping[str, str | Callable[[Any], dict[str, Any]] | None],
    same: Callable[[str], bool] = lambda key: False,
) -> FCOSCfgNode:
    """Apply a foreign config to a config of fcos_d2. Unknown keys are ignored with a warning.

    Args:
        foreign: {dotted key: value} of the foreign config.
        base: name of the config of fcos_d2 with the defaults of the format.
        rules: for a foreign key its name in fcos_d2, or a function from the foreign value to
            {key: value} of fcos_d2, or ``None`` to drop the key.
        same: predicate for foreign keys with the same name and meaning in fcos_d2.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(base))
    overrides: dict[str, Any] = {}
    ignored = []
    for key, value in foreign.items():
        rule = rules.get(key, key if same(key) and has_key(cfg, key) else "?")
        if rule == "?":
            ignored.append(key)
        elif callable(rule):
            overrides.update(rule(value))
        elif rule is not None:
            overrides[rule] = value
    if ignored:
        logger.warning(
            "Ignored config keys without an equivalent in fcos_d2: %s", ", ".join(ignored)
        )
    cfg.merge_from_list([x for pair in overrides.items() for x in pair])
    return cfg


def subtract_eps(state: State, eps: float = 1e-5) -> State:
    """Convert frozen batch norms that divide by ``sqrt(var)`` to ``sqrt(var + eps)``."""
    frozen = {
        key: value - eps
        for key, value in state.items()
        if key.endswith(".running_var")
        and key.replace("running_var", "num_batches_tracked") not in state
    }
    return {**state, **frozen}
