"""The losses of FCOS as functions of tensors (FCOS papers, arXiv 1904.01355 and 2006.09214).

All of them compute in float32, also of what has half precision, because the products of distances
below leave the range of float16 at ordinary box sizes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["BOX_LOSSES", "centerness_targets", "ltrb_iou_loss", "sigmoid_focal_loss"]

BOX_LOSSES = ("iou", "linear_iou", "giou")


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


def ltrb_iou_loss(
    predicted: Tensor, target: Tensor, kind: str = "giou", smoothing: float = 1.0
) -> tuple[Tensor, Tensor]:
    """IoU-family loss of two boxes around the same location, given as ltrb distances.

    Intersection and union are increased by ``smoothing``, one in the published code, which keeps
    the logarithm finite. The loss therefore depends a little on the unit of the distances.

    Args:
        predicted: (K, 4) distances to left, top, right, bottom, not negative.
        target: (K, 4) in the same unit.
        kind: "iou" (-ln IoU, arXiv 1608.01471), "linear_iou" (1 - IoU) or "giou" (1 - GIoU,
            arXiv 1902.09630).
        smoothing: 0 for the plain IoU, whose logarithm then stops at 1e-6.

    Returns:
        (K,) losses and (K,) smoothed IoU, float32.

    Raises:
        ValueError: for another ``kind``.
    """
    predicted, target = predicted.float(), target.float()
    # Width and height of a box around the location: l + r and t + b.
    area_p = (predicted[:, :2] + predicted[:, 2:]).prod(dim=1)
    area_t = (target[:, :2] + target[:, 2:]).prod(dim=1)
    smaller, larger = torch.minimum(predicted, target), torch.maximum(predicted, target)
    intersection = (smaller[:, :2] + smaller[:, 2:]).prod(dim=1)
    union = area_p + area_t - intersection
    iou = (intersection + smoothing) / (union + smoothing)
    if kind == "iou":
        return -iou.clamp(min=1e-6).log(), iou
    if kind == "linear_iou":
        return 1 - iou, iou
    if kind == "giou":
        enclosing = (larger[:, :2] + larger[:, 2:]).prod(dim=1)
        return 1 - iou + (enclosing - union) / enclosing, iou
    raise ValueError(f"unknown box loss {kind!r}, expected one of {', '.join(BOX_LOSSES)}")


def centerness_targets(ltrb: Tensor) -> Tensor:
    """``sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))`` of locations inside a box.

    Args:
        ltrb: (K, 4) positive distances, any unit.

    Returns:
        (K,) in (0, 1], float32.
    """
    ltrb = ltrb.float()
    first, second = ltrb[:, :2], ltrb[:, 2:]
    ratio = torch.minimum(first, second) / torch.maximum(first, second)
    return ratio.prod(dim=1).sqrt()
