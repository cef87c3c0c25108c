"""Checkpoints and configs of AdelaiDet (github.com/aim-uofa/AdelaiDet)."""

import logging
import os

import yaml
from fvcore.common.config import CfgNode

from ...config import FCOSCfgNode
from ...modeling.compat import Compat
from .format import Format, State, flatten, map_config, rename
from .timm_names import DLA_RULES, MOBILENET_V2_RULES, VOVNET_RULES

__all__ = ["FORMAT"]

logger = logging.getLogger(__name__)

_RULES = (
    *MOBILENET_V2_RULES,
    *DLA_RULES,
    *VOVNET_RULES,
    (r"^proposal_generator\.fcos_head\.", "head."),
)
_TIMM = "build_fcos_timm_fpn_p3p7_backbone"
_BACKBONES: dict[str, dict] = {
    "build_fcos_resnet_fpn_backbone": {
        "MODEL.BACKBONE.NAME": "build_fcos_resnet_fpn_p3p7_backbone",
    },
    "build_fcos_dla_fpn_backbone": {
        "MODEL.BACKBONE.NAME": _TIMM,
        "MODEL.TIMM.NAME": "dla34",
        "MODEL.FPN.IN_FEATURES": [],
    },
    "build_fcos_vovnet_fpn_backbone": {
        "MODEL.BACKBONE.NAME": _TIMM,
        "MODEL.TIMM.NAME": "ese_vovnet39b",
        "MODEL.TIMM.ESE_IN_EVERY_BLOCK": True,
        "MODEL.FPN.IN_FEATURES": [],
    },
}
_VOVNETS = {f"V-{n}-eSE": f"ese_vovnet{n}b" for n in (39, 57, 99)}


def _convert(state: State) -> State:
    return rename(state, _RULES)


def _backbone(name: str) -> dict:
    if name not in _BACKBONES:
        raise ValueError(
            f"MODEL.BACKBONE.NAME {name!r} is not a backbone of a published FCOS; known: "
            f"{', '.join(_BACKBONES)}"
        )
    return _BACKBONES[name]


def _vovnet(body: str) -> dict:
    if body not in _VOVNETS:
        raise ValueError(f"MODEL.VOVNET.CONV_BODY {body!r}; known: {', '.join(_VOVNETS)}")
    return {"MODEL.TIMM.NAME": _VOVNETS[body]}


def _mobilenet(on: bool) -> dict:
    if not on:
        return {}
    return {
        "MODEL.BACKBONE.NAME": _TIMM,
        "MODEL.TIMM.NAME": "mobilenetv2_100",
        "MODEL.FPN.IN_FEATURES": [],
    }


_CONFIG_RULES = {
    "MODEL.META_ARCHITECTURE": None,
    "MODEL.PROPOSAL_GENERATOR.NAME": None,
    "MODEL.WEIGHTS": None,  # initial weights of training; a conversion has its own weights
    "MODEL.BACKBONE.NAME": _backbone,
    "MODEL.MOBILENET": _mobilenet,
    "MODEL.DLA.CONV_BODY": lambda body: {"MODEL.TIMM.NAME": body.lower()},
    "MODEL.DLA.NORM": lambda norm: {"MODEL.TIMM.NORM": "" if norm == "BN" else norm},
    "MODEL.DLA.OUT_FEATURES": None,
    "MODEL.VOVNET.CONV_BODY": _vovnet,
    "MODEL.VOVNET.NORM": lambda norm: {"MODEL.TIMM.NORM": "" if norm == "BN" else norm},
    "MODEL.VOVNET.OUT_FEATURES": None,
    "MODEL.FCOS.FPN_STRIDES": None,
    "MODEL.FCOS.YIELD_PROPOSAL": None,
    "MODEL.FCOS.YIELD_BOX_FEATURES": None,
    "MODEL.FCOS.USE_RELU": None,  # AdelaiDet never reads this key
    "INPUT.HFLIP_TRAIN": lambda on: {"INPUT.RANDOM_FLIP": "horizontal" if on else "none"},
    "DATASETS.TRAIN": None,
    "DATASETS.TEST": None,
    "OUTPUT_DIR": None,
}
_SAME = ("MODEL.", "INPUT.", "SOLVER.", "TEST.", "DATALOADER.", "VERSION")


def _read_config(path: str) -> FCOSCfgNode:
    foreign = flatten(_load(path))
    body = foreign.get("MODEL.BACKBONE.NAME", "")
    if body != "build_fcos_resnet_fpn_backbone" and body in _BACKBONES:
        foreign.pop("MODEL.FPN.IN_FEATURES", None)  # stage names of AdelaiDet's backbones
    # The backbone name comes first: it sets defaults that more specific keys change.
    order = sorted(foreign, key=lambda key: key != "MODEL.BACKBONE.NAME")
    return map_config(
        {key: foreign[key] for key in order},
        "adelaidet/Base-adelaidet.yaml",
        _CONFIG_RULES,
        lambda key: key.startswith(_SAME),
    )


def _load(path: str) -> dict:
    try:
        return CfgNode.load_yaml_with_base(path)
    except FileNotFoundError as error:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
        if os.path.basename(content.get("_BASE_", "")) != "Base-FCOS.yaml":
            raise FileNotFoundError(
                f"{path} is based on {content.get('_BASE_')}, which is not there ({error})"
            ) from error
    logger.warning(
        "%s is based on %s, which is not there: taking AdelaiDet's published one",
        path,
        content.pop("_BASE_"),
    )
    return content


FORMAT = Format(
    name="adelaidet",
    prefix="proposal_generator.fcos_head.",
    convert=_convert,
    compat=Compat(),
    # Old versions of detectron2 stored the pixel statistics; a DLA stage of two levels discards
    # the result of the outer projection.
    unused=r"(.*\.)?pixel_(mean|std)|backbone\.bottom_up\.model\.level[34]\.project\..*",
    read_config=_read_config,
)
