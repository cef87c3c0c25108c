"""Sigmoid focal loss (arXiv 1708.02002), computed in float32 even for half-precision logits."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(
    logits: Tensor, locations: Tensor, labels: Tensor, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Sum of the focal loss (arXiv 1708.02002) over the locations and classes of a map.

    It is computed as if all were background, then corrected at the few positives: there is no
    one-hot target, and backward keeps nothing of the map's size but the logits themselves.

    Args:
        logits: (N, C, H, W), in any memory format.
        locations: (K,) int64 index n * H * W + y * W + x of each positive, all different;
            negative for those that do not count.
        labels: (K,) int64 in [0, C), class of each.
        alpha: weight of the positive term; negatives weigh ``1 - alpha``.
        gamma: exponent of the factor that turns easy examples down.

    Returns:
        Scalar tensor, float32 (float64 for logits in float64). It can be differentiated once.
    """
    if not torch.ops.aten.is_non_overlapping_and_dense(logits):
        logits = logits.contiguous()
    height, width = logits.shape[2:]
    image = torch.div(locations, height * width, rounding_mode="floor")
    cell = locations - image * height * width
    # Where the logit of each positive lies in memory.
    row = torch.div(cell, width, rounding_mode="floor")
    place = image * logits.stride(0) + labels * logits.stride(1)
    place = place + row * logits.stride(2) + (cell - row * width) * logits.stride(3)
    place = torch.where(locations < 0, logits.numel(), place)
    return _FocalLoss.apply(logits, place, alpha, gamma)


class _FocalLoss(torch.autograd.Function):
    """The focal loss of a dense map, and its derivative in closed form.

    ``place`` is the index in memory of each positive logit, ``logits.numel()`` for none.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, place: Tensor, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, place)
        ctx.alpha, ctx.gamma = alpha, gamma
        flat = _in_memory_order(logits)
        exact = torch.float32 if flat.device.type == "mps" else torch.float64
        total = torch.zeros((), dtype=exact, device=flat.device)
        for part in flat.split(_part_size(flat)):
            total += _wrong_loss(_wide(part), gamma).sum(dtype=exact)
        positive = _wide(flat[place.clamp(max=len(flat) - 1)])
        change = alpha * _wrong_loss(-positive, gamma).to(exact)
        change -= (1 - alpha) * _wrong_loss(positive, gamma).to(exact)
        total = (1 - alpha) * total + torch.where(place < len(flat), change, 0.0).sum()
        return total.to(positive.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        logits, place = ctx.saved_tensors
        alpha, gamma = ctx.alpha, ctx.gamma
        flat = _in_memory_order(logits)
        grad = flat.new_empty(len(flat) + 1)  # the last one is for those that do not count
        size = _part_size(flat)
        for part, result in zip(flat.split(size), grad[:-1].split(size), strict=True):
            result.copy_(_wrong_slope(_wide(part), gamma).mul_(grad_loss * (1 - alpha)))
        positive = _wide(flat[place.clamp(max=len(flat) - 1)])
        grad[place] = (_wrong_slope(-positive, gamma) * (-alpha * grad_loss)).to(grad.dtype)
        return grad.as_strided(logits.shape, logits.stride()), None, None, None


def _wrong_loss(x: Tensor, gamma: float) -> Tensor:
    """Focal loss of a logit that should be low: a positive of logit -x costs the same."""
    return _power(x.sigmoid(), gamma).mul_(F.softplus(x))


def _wrong_slope(x: Tensor, gamma: float) -> Tensor:
    """Its derivative, with ``s = sigmoid(x)``: ``s**gamma * (gamma * (1-s) * softplus(x) + s)``."""
    s = x.sigmoid()
    slope = (1 - s).mul_(F.softplus(x)).mul_(gamma).add_(s)
    return slope.mul_(_power(s, gamma))


def _power(x: Tensor, gamma: float) -> Tensor:
    return x.square_() if gamma == 2 else x.pow_(gamma)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _in_memory_order(x: Tensor) -> Tensor:
    """All elements of a dense tensor, as a view."""
    return x.as_strided((x.numel(),), (1,))


def _part_size(flat: Tensor) -> int:
    """Elements handled at once: on a CPU so many that they stay in the cache."""
    return 2**18 if flat.device.type == "cpu" else max(len(flat), 1)
