"""Every config in the package: listed, buildable, trainable, and true to its origin."""

import functools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler
from support.inputs import ground_truth

import fcos_d2
from fcos_d2 import model_zoo
from fcos_d2.checkpoint.convert import FORMATS
from fcos_d2.checkpoint.published import PUBLISHED
from fcos_d2.engine.trainer import FCOSTrainer
from fcos_d2.modeling.compat import Compat


def config(name):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def test_every_published_model_has_a_config_and_the_other_way_round():
    foreign = [name for name in model_zoo.list_configs() if "/" in name]
    assert sorted(p.config for p in PUBLISHED) == foreign
    assert [sum(p.origin == o for p in PUBLISHED) for o in FORMATS] == [19, 23, 1, 1, 12]


@pytest.mark.parametrize("published", PUBLISHED, ids=lambda p: p.config)
def test_conventions_are_those_of_the_origin(published):
    cfg, foreign = config(published.config), FORMATS[published.origin]
    assert Compat(**{k.lower(): v for k, v in cfg.MODEL.FCOS.COMPAT.items()}) == foreign.compat
    assert published.config.startswith(published.origin + "/")


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_one_step_of_training_and_detections(name):
    cfg = config(name)
    optimizer = FCOSTrainer.build_optimizer(cfg, torch.nn.Linear(2, 2))
    build_lr_scheduler(cfg, optimizer)
    cfg.MODEL.WEIGHTS = ""
    if cfg.MODEL.RESNETS.DEPTH > 50:  # deeper ones have more of the same blocks
        cfg.MODEL.RESNETS.DEPTH = 50
    train_and_detect(cfg.MODEL.dump())


@functools.cache  # many configs differ only in weights, depth and solver
def train_and_detect(model_options):
    cfg = fcos_d2.get_cfg()
    cfg.MODEL = type(cfg).load_cfg(model_options)
    model = build_model(cfg)
    inputs = [
        {
            "image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8),
            "instances": ground_truth([[8, 8, 40, 50]], [0], (64, 96)),
        }
        for _ in range(2)
    ]
    optimizer = FCOSTrainer.build_optimizer(cfg, model.train())
    before = model.head.cls_logits.weight.clone()
    losses = model(inputs)
    sum(losses.values()).backward()
    optimizer.step()
    assert all(loss.isfinite() for loss in losses.values()) and len(losses) == 3
    assert not torch.equal(before, model.head.cls_logits.weight)
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "distributed training would wait for these"
    with torch.no_grad():
        outputs = model.eval()(inputs)
    for output in outputs:
        boxes = output["instances"].pred_boxes.tensor
        assert boxes.isfinite().all() and (boxes >= 0).all()


def test_sizes_of_well_known_models():
    def parameters(name):
        return sum(p.numel() for p in build_model(config(name)).parameters())

    # Published: detectron2's, and torchvision's less eleven of its 91 class channels.
    assert parameters("detectron2/fcos_R_50_FPN_1x.yaml") == 32_244_245
    assert parameters("torchvision/fcos_resnet50_fpn.yaml") == 32_269_600 - 11 * 2305


def test_weights_have_addresses_and_unknown_ones_say_so():
    url = model_zoo.weights_url("official/fcos_R_50_FPN_1x.yaml")
    assert url.startswith("https://") and url.endswith("FCOS_R_50_FPN_1x.pth?download=true")
    with pytest.raises(ValueError, match=r"fcos_V_39_eSE_FPN_ms_3x\.pth"):
        model_zoo.weights_url("adelaidet/vovnet/MS_V_39_3x.yaml")
    with pytest.raises(ValueError, match="no address"):
        model_zoo.get("official/fcos_imprv_R_101_FPN_1x.yaml", trained=True)


def test_get_builds_the_model():
    model = model_zoo.get("adelaidet/FCOS_RT/MS_DLA_34_4x_syncbn.yaml", device="cpu")
    assert model.strides == [8, 16, 32] and model.device.type == "cpu"
