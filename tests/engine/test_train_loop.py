"""A training step: parts of a batch, precision, and losses that are no numbers."""

import pytest
import torch
from support.inputs import ground_truth
from support.models import tiny_fcos

from fcos_d2.engine.train_loop import TrainStep, split_batch

# No group norm: it refuses a single image whose coarsest map has one cell.
HEAD = {"prior_distance": 2.0, "norm": ""}


def batch(sizes=((96, 128), (64, 96), (128, 64), (96, 96)), boxes=(2, 0, 3, 1)):
    inputs = []
    for i, ((h, w), n) in enumerate(zip(sizes, boxes, strict=True)):
        corners = [[4 + 9 * j, 6, 34 + 11 * j, 40 + 5 * j] for j in range(n)]
        inputs.append(
            {
                "image": torch.randint(0, 256, (3, h, w), dtype=torch.uint8),
                "instances": ground_truth(corners, [j % 3 for j in range(n)], (h, w)),
                "file_name": f"{i}.png",
            }
        )
    return inputs


def step_of(model, data, **options):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step = TrainStep(model.train(), [data], optimizer, seed=0, **options)
    step._write_metrics = lambda *args: None
    return step


def gradients(model, data, **options):
    step = step_of(model, data, **options)
    losses = step.forward_backward(data)
    return losses, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("normalizer", ["fg", "moving_fg", "all"])
@pytest.mark.parametrize("parts", [2, 3, 4])
def test_parts_of_a_batch_add_up_to_the_whole(normalizer, parts):
    data, results = batch(), []
    for accumulate in (1, parts):
        torch.manual_seed(0)
        model = tiny_fcos(cls_loss_normalizer=normalizer, head=HEAD).double()
        results.append(gradients(model, data, accumulate=accumulate))
    (whole, expected), (summed, found) = results
    for name in whole:
        assert summed[name].item() == pytest.approx(whole[name].item(), rel=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1e-6)


def test_a_moving_average_moves_once_a_step():
    averages = []
    for accumulate in (1, 4):
        model = tiny_fcos(cls_loss_normalizer="moving_fg", head=HEAD)
        gradients(model, batch(), accumulate=accumulate)
        averages.append(model.moving_num_fg.item())
    assert averages[0] == averages[1] != 100


def test_a_failed_step_leaves_nothing_in_the_model():
    model = tiny_fcos(head=HEAD)
    before = dict(vars(model))
    with torch.no_grad():
        model.head.ctrness.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError):
        gradients(model, batch(), accumulate=2)
    assert vars(model) == before


def test_splitting():
    assert split_batch([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4, 5]]
    assert split_batch([1, 2], 5) == [[1], [2]]


def test_bfloat16_computes_losses_in_float32():
    data = batch()
    torch.manual_seed(0)
    exact, _ = gradients(tiny_fcos(), data)
    torch.manual_seed(0)
    rounded, _ = gradients(tiny_fcos(), data, precision="bfloat16")
    for name, value in rounded.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.03)


def test_unusable_precisions_are_refused():
    for spelling in ("float16", "fp16", "half"):
        with pytest.raises(ValueError, match=r"SOLVER.AMP.DTYPE fp16 does not work on the CPU"):
            step_of(tiny_fcos(), batch(), precision=spelling)
    with pytest.raises(ValueError, match="'int8', expected one of fp32 = float32"):
        step_of(tiny_fcos(), batch(), precision="int8")


def test_clipping_bounds_the_norm_of_all_gradients():
    model, data = tiny_fcos(), batch()
    step = step_of(model, data, clip_norm=1e-3)
    step.run_step()
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_no_number_stops_with_what_led_to_it():
    model, data = tiny_fcos(), batch()
    with torch.no_grad():
        model.head.ctrness.bias.fill_(float("nan"))
    before = model.head.cls_logits.weight.clone()
    step = step_of(model, data)
    step.iter = 41
    with pytest.raises(FloatingPointError) as error:
        step.run_step()
    text = str(error.value)
    for part in ("iteration 41", "rate 0.1", "loss_fcos_ctr nan", "2.png", "box side 44"):
        assert part in text, part
    assert torch.equal(before, model.head.cls_logits.weight)
