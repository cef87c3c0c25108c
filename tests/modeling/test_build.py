"""From config and named options to the parts of the model."""

import warnings
from types import SimpleNamespace

import pytest
import torch
from detectron2.modeling import build_model
from support.inputs import inputs, small_cfg
from support.models import TinyBackbone, tiny_fcos

from fcos_d2.modeling.box_coder import LtrbExp, LtrbRelu
from fcos_d2.modeling.build import (
    build_box_coder,
    build_compat,
    build_criterion,
    build_postprocess,
    conventions,
)
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.fcos import FCOS
from fcos_d2.modeling.head import FCOSHead
from fcos_d2.modeling.locations import LocationGenerator

EVERY_SWITCH = {f"MODEL.FCOS.COMPAT.{name.upper()}": True for name in Compat.__dataclass_fields__}


@pytest.mark.parametrize(
    "old, representation, kind",
    [(None, "ltrb_exp", LtrbExp), (True, "ltrb_relu", LtrbRelu), (False, "ltrb_relu", LtrbExp)],
)
def test_norm_reg_targets_still_chooses_the_representation_and_warns(old, representation, kind):
    cfg = small_cfg("MODEL.FCOS.BOX_REPRESENTATION", representation)
    cfg.merge_from_list(["MODEL.FCOS.NORM_REG_TARGETS", old])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        coder = build_box_coder(cfg.MODEL.FCOS)
    assert type(coder) is kind
    assert [w.category for w in caught] == ([] if old is None else [FutureWarning])


def test_contradicting_representations_name_both_keys():
    cfg = small_cfg(
        *("MODEL.FCOS.BOX_REPRESENTATION", "ltrb_exp", "MODEL.FCOS.NORM_REG_TARGETS", True)
    )
    with pytest.raises(ValueError, match=r"BOX_REPRESENTATION is ltrb_exp.*NORM_REG_TARGETS True"):
        build_model(cfg)


@pytest.mark.parametrize("key", ["ASSIGNER", "CLS_LOSS", "BOX_REPRESENTATION", "NMS_TYPE"])
def test_unknown_parts_are_refused_with_their_key(key):
    with pytest.raises(ValueError, match=rf"MODEL\.FCOS\.{key} is 'other', expected one of"):
        build_model(small_cfg(f"MODEL.FCOS.{key}", "other"))


@pytest.mark.parametrize("changes", [{}, *({key: True} for key in EVERY_SWITCH), EVERY_SWITCH])
def test_every_convention_reaches_the_part_that_it_concerns(changes):
    options = small_cfg(*(word for pair in changes.items() for word in pair)).MODEL.FCOS
    parts = SimpleNamespace(
        criterion=build_criterion(options, 5, build_box_coder(options)),
        postprocess=build_postprocess(options, "TEST"),
        location_generator=LocationGenerator((8, 16), options.COMPAT.GRID_LOCATIONS),
    )
    assert conventions(parts) == build_compat(options)


def test_a_model_built_from_a_config_follows_its_conventions():
    cfg = small_cfg(*(word for pair in EVERY_SWITCH.items() for word in pair))
    assert conventions(build_model(cfg)) == build_compat(cfg.MODEL.FCOS) == Compat(*[True] * 10)


def old_and_new():
    """The same model by the arguments of version 0.1, and by those of today."""
    options = {"center_radius": None, "loc_loss_type": "iou", "compat": Compat(True, True, True)}
    torch.manual_seed(0)
    new = tiny_fcos(**options)
    torch.manual_seed(0)
    backbone = TinyBackbone()
    head = FCOSHead(in_channels=32, num_levels=5, num_classes=6, num_cls_convs=1, num_box_convs=1)
    pixels = {"pixel_mean": [0.0] * 3, "pixel_std": [50.0] * 3}
    with pytest.warns(FutureWarning, match=r"FCOS\(center_radius, compat, loc_loss_type\)"):
        old = FCOS(backbone=backbone, head=head, **pixels, **options)
    return old, new


def test_arguments_of_version_0_1_give_the_same_model_and_warn():
    old, new = old_and_new()
    assert conventions(old) == conventions(new)
    assert old.postprocess == new.postprocess == old.postprocess_train
    for a, b in zip(old.train()(inputs([3, 0])).values(), new.train()(inputs([3, 0])).values()):
        assert torch.equal(a, b)


def test_an_argument_that_never_existed_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'center_radios'"):
        tiny_fcos(center_radios=1.5)
    with pytest.raises(TypeError, match="unexpected keyword argument 'center_radios'"):
        head = FCOSHead(in_channels=32, num_levels=5, num_classes=6)
        FCOS(
            backbone=TinyBackbone(),
            head=head,
            pixel_mean=[0.0] * 3,
            pixel_std=[1.0] * 3,
            center_radios=1.5,
        )


@pytest.mark.parametrize("old, kind", [(True, LtrbRelu), (False, LtrbExp)])
def test_the_head_takes_norm_reg_targets_and_warns(old, kind):
    with pytest.warns(FutureWarning, match="box_coder"):
        head = FCOSHead(in_channels=32, num_levels=5, num_classes=3, norm_reg_targets=old)
    assert type(head.box_coder) is kind
