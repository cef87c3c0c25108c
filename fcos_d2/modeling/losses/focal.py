"""Sigmoid focal loss (arXiv 1708.02002), computed in float32 even for half-precision logits."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["sigmoid_focal_loss"]


def sigmoid_focal_loss(
    logits: Tensor,
    positive_index: Tensor,
    labels: Tensor,
    score: Tensor | None = None,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sum of the focal loss over the locations and classes of a map.

    The loss is computed as if all locations were background, then corrected at the positives:
    there is no one-hot target, and backward keeps nothing of the map's size except the logits.

    Args:
        logits: (N, C, H, W), in any memory format.
        positive_index: (K,) int64 index n * H * W + y * W + x of each positive, all different;
            negative entries are skipped.
        labels: (K,) int64 in [0, C), class of each positive.
        score: must be None; the labels of the focal loss are hard.
        alpha: weight of the positive term; negatives weigh ``1 - alpha``.
        gamma: exponent of the factor that reduces the loss of easy examples.

    Returns:
        Scalar tensor, float32 (float64 for logits in float64). It can be differentiated once.

    Raises:
        ValueError: if ``score`` is given.
    """
    if score is not None:
        raise ValueError(
            "the focal loss has no soft targets: choose a MODEL.FCOS.CLS_LOSS that has, or an "
            "ASSIGNER without scores"
        )
    if not torch.ops.aten.is_non_overlapping_and_dense(logits):
        logits = logits.contiguous()
    height, width = logits.shape[2:]
    image = torch.div(positive_index, height * width, rounding_mode="floor")
    cell = positive_index - image * height * width
    row = torch.div(cell, width, rounding_mode="floor")
    memory_index = image * logits.stride(0) + labels * logits.stride(1)
    memory_index = memory_index + row * logits.stride(2) + (cell - row * width) * logits.stride(3)
    memory_index = torch.where(positive_index < 0, logits.numel(), memory_index)
    return _FocalLoss.apply(logits, memory_index, alpha, gamma)


class _FocalLoss(torch.autograd.Function):
    """Focal loss of a dense map, and its derivative in closed form.

    ``memory_index`` is the index in memory of each positive logit, ``logits.numel()`` for none.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, memory_index: Tensor, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, memory_index)
        ctx.alpha, ctx.gamma = alpha, gamma
        flat = _in_memory_order(logits)
        exact = torch.float32 if flat.device.type == "mps" else torch.float64
        total = torch.zeros((), dtype=exact, device=flat.device)
        for part in flat.split(_part_size(flat)):
            total += _negative_term(_at_least_float32(part), gamma).sum(dtype=exact)
        positive = _at_least_float32(flat[memory_index.clamp(max=len(flat) - 1)])
        change = alpha * _negative_term(-positive, gamma).to(exact)
        change -= (1 - alpha) * _negative_term(positive, gamma).to(exact)
        total = (1 - alpha) * total + torch.where(memory_index < len(flat), change, 0.0).sum()
        return total.to(positive.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor):
        logits, memory_index = ctx.saved_tensors
        alpha, gamma = ctx.alpha, ctx.gamma
        flat = _in_memory_order(logits)
        grad = flat.new_empty(len(flat) + 1)  # the last one collects the skipped entries
        size = _part_size(flat)
        for part, result in zip(flat.split(size), grad[:-1].split(size), strict=True):
            result.copy_(
                _negative_gradient(_at_least_float32(part), gamma).mul_(grad_loss * (1 - alpha))
            )
        positive = _at_least_float32(flat[memory_index.clamp(max=len(flat) - 1)])
        grad[memory_index] = (_negative_gradient(-positive, gamma) * (-alpha * grad_loss)).to(
            grad.dtype
        )
        return grad.as_strided(logits.shape, logits.stride()), None, None, None


def _negative_term(x: Tensor, gamma: float) -> Tensor:
    """Focal term of a negative with logit x; a positive with logit x costs the term of -x."""
    return _power(x.sigmoid(), gamma).mul_(F.softplus(x))


def _negative_gradient(x: Tensor, gamma: float) -> Tensor:
    """Derivative: ``s**gamma * (gamma * (1-s) * softplus(x) + s)`` with ``s = sigmoid(x)``."""
    s = x.sigmoid()
    slope = (1 - s).mul_(F.softplus(x)).mul_(gamma).add_(s)
    return slope.mul_(_power(s, gamma))


def _power(x: Tensor, gamma: float) -> Tensor:
    return x.square_() if gamma == 2 else x.pow_(gamma)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _in_memory_order(x: Tensor) -> Tensor:
    """All elements of a dense tensor, as a one-dimensional view."""
    return x.as_strided((x.numel(),), (1,))


def _part_size(flat: Tensor) -> int:
    """Elements processed at once; on a CPU they fit in the cache."""
    return 2**18 if flat.device.type == "cpu" else max(len(flat), 1)
