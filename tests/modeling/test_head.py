"""The head's construction and the gradients it gets through the model's losses."""

import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from support.inputs import ground_truth
from support.models import TinyBackbone, fcos_from, tiny_fcos
from support.parts import head_outputs
from torch import nn

from fcos_d2.modeling.box_coder import LtrbExp, LtrbRelu
from fcos_d2.modeling.head import FCOSHead, PerLevelNorm


def small_head(**options):
    defaults = {"num_cls_convs": 1, "num_box_convs": 1, "num_levels": 5, "num_classes": 3}
    return FCOSHead(in_channels=options.pop("in_channels", 32), **{**defaults, **options})


def maps(seed=0, n=2):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 32, s, s, generator=generator) for s in (16, 8, 4, 2, 1)]


@pytest.mark.parametrize("prior", [0.01, 0.2])
def test_untrained_head_predicts_the_prior(prior):
    head = small_head(prior_prob=prior)
    assert torch.allclose(head.cls_logits.bias.sigmoid(), torch.tensor(prior))
    logits, distances, quality = head_outputs(head, maps())
    assert logits[0].sigmoid().mean().item() == pytest.approx(prior, rel=0.05)
    assert quality[0].sigmoid().mean().item() == pytest.approx(0.5, abs=0.05)
    assert all((d >= 0).all() for d in distances)


def test_outputs_have_the_shapes_of_their_maps():
    for share, scale, norm in ((0, True, "GN"), (2, False, "BN"), (1, True, ""), (0, True, "none")):
        head = small_head(num_share_convs=share, use_scale=scale, norm=norm).eval()
        for outputs, channels in zip(head(maps()), (3, 4, 1)):
            assert [tuple(x.shape) for x in outputs] == [
                (2, channels, s, s) for s in (16, 8, 4, 2, 1)
            ]


def test_every_level_keeps_batch_statistics_of_its_own():
    head = small_head(norm="BN").train()
    norms = [m for m in head.modules() if isinstance(m, PerLevelNorm)]
    assert [len(m) for m in norms] == [5, 5]
    untouched = [m.running_var.clone() for m in norms[0]]
    head(maps()[:3])
    changed = [not torch.equal(m.running_var, v) for m, v in zip(norms[0], untouched)]
    assert changed == [True, True, True, False, False]
    assert not torch.equal(norms[0][0].running_mean, norms[0][1].running_mean)
    # A call on fewer levels, or one that failed, must not shift the next call's norms.
    fresh, reference = small_head(norm="BN"), small_head(norm="BN")
    reference.load_state_dict(fresh.state_dict())
    fresh.eval()(maps()[:2])
    with pytest.raises(RuntimeError):
        fresh([maps()[0], torch.zeros(2, 5, 4, 4)])
    for a, b in zip(fresh(maps())[0], reference.eval()(maps())[0]):
        assert torch.equal(a, b)


@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("coder", [LtrbExp(), LtrbRelu()])
def test_extreme_box_outputs_stay_finite(coder, raw):
    head = small_head(box_coder=coder)
    nn.init.zeros_(head.bbox_pred.weight)
    nn.init.constant_(head.bbox_pred.bias, raw)
    for d in head_outputs(head, maps())[1]:
        assert d.isfinite().all() and (d >= 0).all()
        if raw == 0:
            assert (d == (0 if coder.in_strides else 1)).all()
    sum(d.sum() for d in head_outputs(head, maps())[1]).backward()
    assert head.bbox_pred.bias.grad.isfinite().all()


def test_group_norm_needs_channels_that_its_groups_divide():
    with pytest.raises(ValueError, match=r"32 groups.*48 channels.*FPN.OUT_CHANNELS"):
        small_head(in_channels=48)
    small_head(in_channels=48, norm="BN")


@pytest.mark.parametrize("options", [{"norm": "LN"}, {"prior_prob": 0}, {"prior_prob": 1.0}])
def test_impossible_options_name_their_config_key(options):
    with pytest.raises(ValueError, match="MODEL.FCOS." + next(iter(options)).upper()):
        small_head(**options)


def test_deformable_convolution_is_the_last_of_both_towers():
    head = small_head(num_cls_convs=2, num_box_convs=2, use_deformable=True)
    for tower in (head.cls_tower, head.bbox_tower):
        assert isinstance(tower[0], nn.Conv2d) and tower[3].offset.out_channels == 27
    sum(x.sum() for outputs in head(maps()) for x in outputs).backward()
    assert all(p.grad is not None for p in head.parameters())


BATCHES = {
    "boxes": [[[20, 20, 90, 100], [100, 60, 250, 200]], [[5, 5, 70, 40]]],
    "an empty image": [[], [[20, 20, 90, 100]]],
    "no boxes at all": [[], []],
    "boxes that own no location": [[[5, 5, 7, 7]], [[300, 300, 400, 400], [9, 9, 9, 9]]],
}


def batch(boxes):
    generator = torch.Generator().manual_seed(0)
    shape = (3, 256, 256)
    images = [torch.randint(0, 256, shape, generator=generator).float() for _ in boxes]
    truth = [ground_truth(b, [i % 6 for i in range(len(b))], (256, 256)) for b in boxes]
    return [{"image": x, "instances": t} for x, t in zip(images, truth)]


@pytest.mark.parametrize("quality", ["ctrness", "iou"])
@pytest.mark.parametrize("coder", [LtrbExp(), LtrbRelu()])
@pytest.mark.parametrize("boxes", BATCHES.values(), ids=BATCHES)
def test_every_parameter_gets_a_finite_gradient(boxes, coder, quality):
    torch.manual_seed(0)
    model = tiny_fcos(head={"box_coder": coder, "num_share_convs": 1}, box_quality=quality)
    losses = model.train()(batch(boxes))
    assert all(v.isfinite() and v.dtype == torch.float32 for v in losses.values())
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if boxes not in (BATCHES["boxes"], BATCHES["an empty image"]):
        assert losses["loss_fcos_loc"] == 0 and not model.head.bbox_pred.weight.grad.any()
        assert model.head.cls_logits.weight.grad.any()


@pytest.mark.parametrize("coder", [LtrbExp(), LtrbRelu()])
def test_losses_under_bfloat16_are_float32_and_close(coder):
    torch.manual_seed(0)
    model = tiny_fcos(head={"box_coder": coder}).train()
    exact = model(batch(BATCHES["boxes"]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch(BATCHES["boxes"]))
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.02), name
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_detections_are_made_without_gradients_and_in_order():
    torch.manual_seed(0)
    model = tiny_fcos().eval()
    nn.init.constant_(model.head.cls_logits.bias, 0.0)
    nn.init.constant_(model.head.bbox_pred.bias, 2.0)
    found = model(batch(BATCHES["boxes"]))[0]["instances"]
    assert len(found) == 100 and not found.scores.requires_grad
    assert found.scores.diff().le(0).all()


def test_model_rejects_options_that_contradict_each_other():
    for options, key in (
        ({"loc_loss_type": "diou"}, "LOC_LOSS_TYPE"),
        ({"box_quality": "score"}, "BOX_QUALITY"),
        ({"cls_loss_normalizer": "none"}, "LOSS_NORMALIZER_CLS"),
        ({"center_radius": 0.0}, "POS_RADIUS"),
        ({"in_features": ["p3", "p9"]}, "IN_FEATURES"),
        ({"sizes_of_interest": (64, 128)}, "SIZES_OF_INTEREST"),
    ):
        with pytest.raises(ValueError, match=key):
            tiny_fcos(**options)


def test_levels_must_double_their_stride():
    class Uneven(TinyBackbone):
        def output_shape(self):
            return {"p3": ShapeSpec(32, stride=8), "p4": ShapeSpec(32, stride=32)}

    with pytest.raises(ValueError, match="twice"):
        fcos_from(
            Uneven(),
            small_head(num_levels=2),
            sizes_of_interest=(64,),
            model_options={"pixel_mean": [0.0] * 3, "pixel_std": [1.0] * 3},
        )


def test_initialised_weights_are_small_and_reproducible():
    torch.manual_seed(0)
    head = small_head()
    assert head.bbox_pred.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert head.bbox_pred.bias.abs().max() == 0
    assert head.cls_logits.bias[0].item() == pytest.approx(-math.log(99))


def test_distances_start_at_their_prior():
    options = {"in_channels": 32, "num_levels": 2, "num_classes": 3, "norm": ""}
    features = [torch.rand(2, 32, 4, 4), torch.rand(2, 32, 2, 2)]
    torch.manual_seed(0)
    _, distances, _ = head_outputs(FCOSHead(**options, prior_distance=2.0), features)
    assert all(torch.allclose(d, torch.tensor(2.0), atol=0.1) for d in distances)
    _, distances, _ = head_outputs(FCOSHead(**options), features)
    assert all(d.max() < 0.1 for d in distances)
