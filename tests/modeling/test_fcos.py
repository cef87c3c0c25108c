"""The model as detectron2 sees it: configs in, losses and instances out."""

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_model
from detectron2.utils.events import EventStorage
from support.inputs import ground_truth, inputs, small_cfg
from support.models import tiny_fcos

import fcos_d2


def test_training_gives_named_losses_with_a_gradient_for_everything():
    torch.manual_seed(0)
    model = build_model(small_cfg())
    losses = model(inputs([3, 0, 2]))
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_inference_rescales_to_the_size_asked_for():
    torch.manual_seed(0)
    model = build_model(small_cfg("MODEL.FCOS.INFERENCE_TH_TEST", 0.001)).eval()
    batch = [{"image": x["image"]} for x in inputs([1, 1])]
    batch[1].update(height=256, width=320)
    first, second = (x["instances"] for x in model(batch))
    assert first.image_size == (128, 160) and second.image_size == (256, 320)
    alone = model([{"image": batch[1]["image"]}])[0]["instances"]
    assert len(alone) > 0
    torch.testing.assert_close(alone.pred_boxes.tensor * 2, second.pred_boxes.tensor)
    for boxes in (first.pred_boxes, second.pred_boxes):
        assert boxes.nonempty().all()
        assert (boxes.tensor >= 0).all()


def test_batch_gives_the_detections_of_single_images():
    torch.manual_seed(0)
    model = build_model(small_cfg("MODEL.FCOS.INFERENCE_TH_TEST", 0.001)).eval()
    batch = [{"image": x["image"]} for x in inputs([1, 1, 1])]
    together = model(batch)
    for x, result in zip(batch, together, strict=True):
        alone = model([x])[0]["instances"]
        torch.testing.assert_close(alone.scores, result["instances"].scores, atol=1e-4, rtol=0)


def test_yaml_and_lazy_config_build_the_same_keys_and_shapes():
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    lazy = LazyConfig.load(fcos_d2.get_config_file("fcos_R_50_FPN_1x.py"))
    ours, theirs = build_model(cfg).state_dict(), instantiate(lazy.model).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


@pytest.mark.parametrize(
    ("overrides", "p6"), [((), 32), (("MODEL.FCOS.TOP_BLOCK_IN", "res5"), 512)]
)
def test_p6_comes_from_p5_or_c5(overrides, p6):
    model = build_model(small_cfg(*overrides))
    assert model.backbone.top_block.p6.weight.shape[1] == p6
    assert model.strides == [8, 16, 32, 64, 128]


@pytest.mark.parametrize("levels", [0, 1])
def test_fewer_top_levels(levels):
    names = ["p3", "p4", "p5", "p6"][: 3 + levels]
    sizes = [64, 128, 256][: 2 + levels]
    model = build_model(
        small_cfg(
            "MODEL.FCOS.TOP_LEVELS", levels, "MODEL.FCOS.IN_FEATURES", names,
            "MODEL.FCOS.SIZES_OF_INTEREST", sizes,
        )
    )  # fmt: skip
    assert sum(model(inputs([2])).values()).isfinite()


def test_contradictions_name_the_key_to_change():
    with pytest.raises(ValueError, match="SIZES_OF_INTEREST"):
        build_model(small_cfg("MODEL.FCOS.SIZES_OF_INTEREST", [64, 128]))
    with pytest.raises(ValueError, match="SIZES_OF_INTEREST must be positive and increase"):
        build_model(small_cfg("MODEL.FCOS.SIZES_OF_INTEREST", [64, 64, 128, 256]))
    with pytest.raises(ValueError, match="IN_FEATURES"):
        build_model(small_cfg("MODEL.FCOS.TOP_LEVELS", 0))
    with pytest.raises(ValueError, match="LOC_LOSS_TYPE"):
        build_model(small_cfg("MODEL.FCOS.LOC_LOSS_TYPE", "diou"))
    with pytest.raises(ValueError, match="POS_RADIUS"):
        build_model(small_cfg("MODEL.FCOS.POS_RADIUS", 0.0))
    with pytest.raises(ValueError, match="multiple of 32"):
        build_model(small_cfg("MODEL.FPN.OUT_CHANNELS", 48))


@pytest.mark.parametrize("fpn_norm", ["", "GN", "BN"])
def test_fpn_norm(fpn_norm):
    model = build_model(small_cfg("MODEL.FPN.NORM", fpn_norm))
    assert (model.backbone.fpn_lateral3.bias is None) == bool(fpn_norm)
    assert sum(model(inputs([1, 1])).values()).isfinite()


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "dla34", "hrnet_w18_small"])
def test_any_timm_model_with_every_used_parameter_learning(name):
    torch.manual_seed(0)
    model = build_model(
        small_cfg(
            "MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_p3p7_backbone", "MODEL.TIMM.NAME", name,
            "MODEL.FPN.IN_FEATURES", [], "MODEL.BACKBONE.FREEZE_AT", 0,
        )
    )  # fmt: skip
    sum(model(inputs([2])).values()).backward()
    learning = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in learning)
    assert sum(p.numel() for p in model.backbone.bottom_up.parameters() if p.requires_grad) > 1e6


def test_freezing_a_timm_backbone_fixes_its_stem_and_first_stages():
    overrides = (
        "MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_p3p7_backbone", "MODEL.FPN.IN_FEATURES", [],
        "MODEL.BACKBONE.FREEZE_AT", 2,
    )  # fmt: skip
    net = build_model(small_cfg(*overrides)).backbone.bottom_up.model
    assert not net.conv_stem.weight.requires_grad
    assert not any(p.requires_grad for p in net.blocks[:2].parameters())
    assert any(p.requires_grad for p in net.parameters())


class Toy(Backbone):
    """Twenty lines are enough for a backbone of one's own."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 4, 4)
        self.convs = torch.nn.ModuleList(torch.nn.Conv2d(c, 2 * c, 2, 2) for c in (8, 16, 32))

    def forward(self, x):
        x, outputs = self.stem(x), {}
        for name, conv in zip(("fine", "middle", "coarse"), self.convs, strict=True):
            x = outputs[name] = conv(x)
        return outputs

    def output_shape(self):
        names = zip(("fine", "middle", "coarse"), (16, 32, 64), (8, 16, 32), strict=True)
        return {name: ShapeSpec(channels=c, stride=s) for name, c, s in names}


def test_any_registered_backbone_of_three_strides():
    if "build_toy_backbone" not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY._do_register("build_toy_backbone", lambda cfg, shape: Toy())
    cfg = small_cfg(
        "MODEL.BACKBONE.NAME", "build_fcos_fpn_p3p7_backbone", "MODEL.FPN.IN_FEATURES", [],
        "MODEL.FCOS.BOTTOM_UP", "build_toy_backbone",
    )  # fmt: skip
    model = build_model(cfg)
    assert model.in_features == ["p3", "p4", "p5", "p6", "p7"]
    assert sum(model(inputs([2])).values()).isfinite()
    cfg.MODEL.BACKBONE.NAME = "build_toy_backbone"
    cfg.MODEL.FCOS.IN_FEATURES = ["fine", "middle", "coarse"]
    with pytest.raises(ValueError, match="build_fcos_fpn_p3p7_backbone"):
        build_model(cfg)


def test_vis_period_draws_truth_and_detections():
    model = build_model(small_cfg("VIS_PERIOD", 1))
    with EventStorage(0) as storage:
        model(inputs([2, 0]))
        (name, picture, _), *_ = storage._vis_data
    assert "ground truth" in name.lower()
    assert picture.shape == (3, 128, 320) and np.asarray(picture).dtype == np.uint8


def test_training_without_ground_truth_says_which_image():
    model = build_model(small_cfg())
    with pytest.raises(KeyError, match=r"cat\.jpg"):
        model([{"image": inputs([1])[0]["image"], "file_name": "cat.jpg"}])


def test_freezing_batch_norms_keeps_a_timm_model_the_same_function():
    """Many timm models keep their activations inside the batch norms."""
    import timm

    name = "tf_efficientnet_lite0"
    torch.manual_seed(0)
    theirs = timm.create_model(name, features_only=True).eval()
    ours = fcos_d2.modeling.backbone.TimmBackbone(name, norm="FrozenBN")
    ours.model.load_state_dict(theirs.state_dict(), strict=False)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, found = theirs(image)[-3:], ours(image)
    for a, b in zip(expected, found.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert not any("bn" in name for name, _ in ours.model.named_parameters())


def test_a_class_that_the_model_does_not_have_is_an_error():
    image = torch.zeros(3, 256, 256)
    truth = ground_truth([[10, 10, 90, 90]], [6], (256, 256))
    with pytest.raises(ValueError, match=r"a\.png has class 6.*NUM_CLASSES is 6"):
        tiny_fcos(6)([{"image": image, "instances": truth, "file_name": "a.png"}])
