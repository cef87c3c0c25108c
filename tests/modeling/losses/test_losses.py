"""The loss functions alone, against formulas in float64."""

import numpy as np
import pytest
import torch
from support.parts import one_hot_focal_loss

from fcos_d2.modeling.losses.box import BOX_LOSSES, centerness_targets, ltrb_iou_loss
from fcos_d2.modeling.losses.focal import sigmoid_focal_loss


def reference_box_loss(p, t, kind):
    """One pair, from corners rather than distances."""
    (pl, pt, pr, pb), (tl, tt, tr, tb) = p, t
    area = (pl + pr) * (pt + pb) + (tl + tr) * (tt + tb)
    overlap = (min(pr, tr) - max(-pl, -tl)) * (min(pb, tb) - max(-pt, -tt))
    hull = (max(pr, tr) - min(-pl, -tl)) * (max(pb, tb) - min(-pt, -tt))
    union = area - overlap
    iou = (overlap + 1) / (union + 1)
    if kind == "iou":
        return -np.log(iou)
    return 1 - iou + ((hull - union) / hull if kind == "giou" else 0)


def distances(n, low, high):
    rng = np.random.RandomState(0)
    return rng.uniform(low, high, (2, n, 4))


@pytest.mark.parametrize("kind", BOX_LOSSES)
@pytest.mark.parametrize("low, high", [(0.05, 6), (5, 800)])
def test_box_losses_and_gradients_equal_the_formula(kind, low, high):
    predicted, target = distances(40, low, high)
    x = torch.tensor(predicted, dtype=torch.float32, requires_grad=True)
    losses, iou = ltrb_iou_loss(x, torch.tensor(target), kind)
    (grads,) = torch.autograd.grad(losses.sum(), x)
    step = low * 1e-3
    for i in range(40):
        expected = reference_box_loss(predicted[i], target[i], kind)
        assert losses[i].item() == pytest.approx(expected, rel=2e-5, abs=1e-6)
        slopes = []
        for j in np.eye(4) * step:
            up, down = (reference_box_loss(predicted[i] + d, target[i], kind) for d in (j, -j))
            slopes.append((up - down) / (2 * step))
        scale = np.abs(slopes).max()
        assert grads[i].numpy() == pytest.approx(np.array(slopes), abs=2e-3 * scale)
        linear = reference_box_loss(predicted[i], target[i], "linear_iou")
        assert iou[i].item() == pytest.approx(1 - linear, abs=1e-6)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_equal_boxes_cost_nothing_and_empty_ones_are_finite(kind):
    boxes = torch.rand(5, 4) * 100 + 1
    losses, iou = ltrb_iou_loss(boxes, boxes, kind)
    assert losses.abs().max() < 1e-6 and iou.min() > 1 - 1e-6
    empty = torch.zeros(5, 4, requires_grad=True)
    losses, iou = ltrb_iou_loss(empty, boxes, kind)
    losses.sum().backward()
    assert losses.isfinite().all() and empty.grad.isfinite().all() and (losses > 0.4).all()


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_half_precision_distances_do_not_overflow(kind):
    x = torch.full((1, 4), 500.0, dtype=torch.float16, requires_grad=True)  # area 1e6 > 65504
    losses, iou = ltrb_iou_loss(x, x.detach() * 2, kind)
    assert losses.dtype == iou.dtype == torch.float32
    assert iou.item() == pytest.approx(0.25, rel=1e-4)
    losses.sum().backward()
    assert x.grad.isfinite().all()


def test_unknown_box_loss_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match=r"'diou'.*iou, linear_iou, giou"):
        ltrb_iou_loss(torch.ones(1, 4), torch.ones(1, 4), "diou")


def test_centerness_equals_the_formula():
    target = distances(100, 0.01, 900)[0]
    left, top, right, bottom = target.T
    horizontal = np.minimum(left, right) / np.maximum(left, right)
    vertical = np.minimum(top, bottom) / np.maximum(top, bottom)
    ours = centerness_targets(torch.tensor(target))
    assert ours.numpy() == pytest.approx(np.sqrt(horizontal * vertical), rel=1e-6)
    assert centerness_targets(torch.tensor([[3.0, 7, 3, 7]])).item() == 1
    assert centerness_targets(torch.zeros(0, 4)).shape == (0,)


def random_map(shape, memory_format=torch.contiguous_format, dtype=torch.float32, seed=0):
    """A map (N, C, H, W) of logits, and labels (N, H, W), a quarter of them not background."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(shape, generator=generator) * 4).to(dtype)
    labels = torch.randint(0, 4 * shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits.to(memory_format=memory_format), labels.clamp(max=shape[1])


def positives(labels, num_classes, generator=None):
    """Locations and classes of positives in any order, among entries that do not count."""
    flat = labels.flatten()
    order = torch.randperm(len(flat), generator=generator)
    where = torch.where(flat < num_classes, torch.arange(len(flat)), -1)[order]
    return where, flat[order].clamp(max=num_classes - 1)


def reference_focal(logits, labels, alpha=0.25, gamma=2.0):
    return one_hot_focal_loss(logits.permute(0, 2, 3, 1), labels, alpha, gamma)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("alpha, gamma", [(0.25, 2.0), (0.5, 0.0), (0.75, 1.5)])
def test_focal_loss_and_gradient_equal_the_paper(alpha, gamma, memory_format):
    for shape in ((2, 4, 3, 5), (1, 1, 1, 1), (3, 7, 1, 9)):
        logits, labels = random_map(shape, memory_format)
        ours, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
        loss = sigmoid_focal_loss(ours, *positives(labels, shape[1]), alpha=alpha, gamma=gamma)
        expected = reference_focal(exact, labels, alpha, gamma)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        (a,), (b,) = torch.autograd.grad(loss * 3, ours), torch.autograd.grad(expected * 3, exact)
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)
        assert a.stride() == logits.stride()


def test_focal_gradient_passes_gradcheck_in_float64():
    for gamma in (2.0, 1.0):
        logits, labels = random_map((2, 3, 2, 4), dtype=torch.float64)
        where, classes = positives(labels, 3)
        loss = lambda x: sigmoid_focal_loss(x, where, classes, gamma=gamma)  # noqa: B023, E731
        assert torch.autograd.gradcheck(loss, logits.requires_grad_())


def test_focal_loss_of_a_map_larger_than_its_parts():
    logits, labels = random_map((2, 20, 100, 101))
    assert logits.numel() > 2**18
    where, classes = positives(labels, 20)
    ours = logits.clone().requires_grad_()
    loss, expected = sigmoid_focal_loss(ours, where, classes), logits.double().requires_grad_()
    reference = reference_focal(expected, labels)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    (a,), (b,) = torch.autograd.grad(loss, ours), torch.autograd.grad(reference, expected)
    torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


def test_focal_loss_of_a_view_that_is_not_dense():
    logits, labels = random_map((2, 4, 3, 5))
    wide = logits.repeat(1, 1, 1, 2)[..., :5]
    where, classes = positives(labels, 4)
    expected = sigmoid_focal_loss(logits, where, classes)
    assert sigmoid_focal_loss(wide, where, classes).item() == expected.item()
    part = torch.cat((logits, logits), 1)[:, 2:6]
    loss = sigmoid_focal_loss(part, where, classes)
    assert loss.item() == pytest.approx(reference_focal(part.double(), labels).item(), rel=1e-5)


def test_focal_loss_keeps_nothing_but_the_logits_for_backward():
    logits, labels = random_map((1, 4, 30, 30))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        sigmoid_focal_loss(logits.requires_grad_(), *positives(labels, 4))
    large = [x for x in saved if x.numel() >= logits.numel()]
    assert [x.data_ptr() for x in large] == [logits.data_ptr()]


def test_focal_loss_of_half_precision_is_float32():
    nowhere = torch.zeros(0, dtype=torch.int64)
    for dtype in (torch.float16, torch.bfloat16):
        zeros = torch.zeros(1, 8, 100, 1000, dtype=dtype, requires_grad=True)
        loss = sigmoid_focal_loss(zeros, nowhere, nowhere)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(800_000 * 0.75 * 0.25 * np.log(2), rel=1e-4)
        (loss / 1000).backward()
        assert zeros.grad.dtype == dtype and zeros.grad.isfinite().all() and zeros.grad.any()
