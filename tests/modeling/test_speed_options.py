"""Every switch for speed: what it changes, and that it changes no result."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from support.inputs import inputs, small_cfg
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fcos_d2.engine.train_loop import TrainStep
from fcos_d2.engine.trainer import FCOSTrainer
from fcos_d2.modeling.assigners import Assignment
from fcos_d2.modeling.speed import FoldedConv2d, fold_detector


def model_of(*overrides):
    """In float64, because norms over two values make much of rounding."""
    torch.manual_seed(0)
    model = build_model(small_cfg("MODEL.FCOS.INFERENCE_TH_TEST", 0.001, *overrides))
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model.double()


def losses_and_gradients(model):
    losses = model.train()(inputs([3, 0, 2]))
    sum(losses.values()).backward()
    return losses, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def maps_of(model, batch):
    with torch.no_grad():
        found = model.predict(model.preprocess_image(batch).tensor)
        return [*found.logits, *found.boxes, *found.quality]


def assert_close(a, b, tolerance=1e-6):
    assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1e-6)


def assert_same_step(found, expected):
    """Losses and gradients."""
    for values, others in zip(found, expected, strict=True):
        assert values.keys() == others.keys()
        for name in values:
            assert_close(values[name], others[name])


@pytest.mark.parametrize(
    "switches",
    [
        ("MODEL.FCOS.MEMORY_FORMAT", "channels_last"),
        ("MODEL.FCOS.MEMORY_FORMAT", "contiguous", "MODEL.FCOS.FOLD_NORMS", True),
        ("MODEL.FCOS.MEMORY_FORMAT", "auto", "MODEL.FCOS.FOLD_NORMS", True),
    ],
)
def test_losses_and_gradients_do_not_depend_on_the_switches(switches):
    plain = model_of("MODEL.FCOS.MEMORY_FORMAT", "contiguous", "MODEL.FCOS.FOLD_NORMS", False)
    fast = model_of(*switches)
    fast.load_state_dict(plain.state_dict())
    assert_same_step(losses_and_gradients(fast), losses_and_gradients(plain))


def test_pairs_masked_for_a_gpu_give_the_losses_of_those_that_count(monkeypatch):
    plain = model_of()
    masked = copy.deepcopy(plain)
    expected = losses_and_gradients(plain)
    monkeypatch.setattr(Assignment, "compact", lambda assignment: assignment)
    assert_same_step(losses_and_gradients(masked), expected)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("MODEL.FCOS.CENTER_SAMPLE", False),
        ("MODEL.FCOS.BOX_QUALITY", "iou"),
        ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "moving_fg"),
        ("MODEL.FCOS.LOSS_NORMALIZER_CLS", "all"),
    ],
)
def test_training_reads_nothing_back_from_the_device(overrides):
    """The meta device has no values: whatever would have to wait for one fails."""
    copies = []

    class CountCopies(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **kwargs or {})
            if isinstance(result, torch.Tensor) and result.is_meta:
                copies.extend(a for a in args if isinstance(a, torch.Tensor) and not a.is_meta)
            return result

    model = build_model(small_cfg(*overrides)).to("meta").train()
    batch = inputs([3, 0, 2])
    for x in batch:
        x["ignore_boxes"] = torch.rand(2, 4)
    with CountCopies():
        sum(model(batch).values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert len(copies) == 3 + 3 + 2  # images, boxes to ignore, all boxes and all classes


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_training_step_waits_for_nothing_but_its_losses():
    model = model_of().float().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, fused=True)
    step = TrainStep(model, [inputs([3, 0, 2])] * 3, optimizer, seed=0)
    step._write_metrics = lambda *args: None
    step.run_step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.run_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_auto_is_channels_last_on_a_cpu():
    batch = inputs([1, 1])
    for choice, expected in (("auto", True), ("channels_last", True), ("contiguous", False)):
        images = model_of("MODEL.FCOS.MEMORY_FORMAT", choice).preprocess_image(batch).tensor
        assert images.is_contiguous(memory_format=torch.channels_last) == expected, choice


def test_frozen_norms_are_folded_by_default_and_trained_ones_never():
    def folded(*overrides):
        return sum(type(m) is FoldedConv2d for m in model_of(*overrides).modules())

    assert folded() == 20  # all of ResNet-18
    assert folded("MODEL.FCOS.FOLD_NORMS", False) == 0
    assert folded("MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0) == 0


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_a_folded_detector_detects_the_same(norm):
    model = model_of("MODEL.RESNETS.NORM", norm).eval()
    folded = copy.deepcopy(model)
    assert fold_detector(folded) == 20
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.backbone.modules())
    batch = inputs([1, 1])
    for a, b in zip(maps_of(folded, batch), maps_of(model, batch), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("MODEL.FCOS.NORM", "BN"),
        ("MODEL.FCOS.USE_DEFORMABLE", True),
        (
            "MODEL.BACKBONE.NAME", "build_fcos_timm_fpn_p3p7_backbone",
            "MODEL.TIMM.NAME", "tf_efficientnet_lite0",
        ),
    ],
)  # fmt: skip
def test_the_network_is_one_graph(overrides):
    model = model_of(*overrides).eval()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(type(model).network, backend=backend, fullgraph=True)
    batch = inputs([1, 1])
    with torch.no_grad():
        maps = compiled(model, model.preprocess_image(batch).tensor)
    found = [x for part in maps for x in part]
    for a, b in zip(found, maps_of(model, batch), strict=True):
        assert_close(a, b)
    assert len(graphs) == 1


def test_a_copy_of_a_compiled_model_has_weights_of_its_own(monkeypatch):
    calls = []

    def compile_(function, mode, dynamic):
        return lambda *args: calls.append(mode) or function(*args)

    monkeypatch.setattr(torch, "compile", compile_)
    model = model_of("MODEL.FCOS.COMPILE", "reduce-overhead").eval()
    other = copy.deepcopy(model)
    nn.init.zeros_(other.head.cls_logits.weight)
    batch = inputs([1])
    assert not torch.equal(maps_of(model, batch)[0], maps_of(other, batch)[0])
    assert calls == ["reduce-overhead"] * 2
    model.compile_network("")
    maps_of(model, batch)
    assert len(calls) == 2


@pytest.mark.parametrize("key, value", [("MEMORY_FORMAT", "nhwc"), ("COMPILE", "fast")])
def test_unknown_choices_are_named(key, value):
    with pytest.raises(ValueError, match=f"MODEL.FCOS.{key} is '{value}', expected one of"):
        model_of(f"MODEL.FCOS.{key}", value)


def test_the_fused_optimizer_takes_the_same_step():
    results = []
    for fused in (False, True):
        model = model_of()
        optimizer = FCOSTrainer.build_optimizer(small_cfg("SOLVER.FUSED", fused), model)
        losses_and_gradients(model)
        optimizer.step()
        results.append([p.detach() for p in model.parameters()])
        assert bool(optimizer.defaults["fused"]) == fused
    for a, b in zip(*results, strict=True):
        assert_close(b, a)


def test_evaluation_in_bf16_is_close_and_a_wrong_precision_is_named():
    model = model_of().float().eval()
    batch = inputs([1])
    with torch.autocast("cpu", torch.bfloat16):
        found = maps_of(model, batch)
    for a, b in zip(found, maps_of(model, batch), strict=True):
        assert_close(a.float(), b, 0.05)
    with pytest.raises(ValueError, match="precision is 'int8'"):
        FCOSTrainer.test(small_cfg("TEST.PRECISION", "int8"), model)
