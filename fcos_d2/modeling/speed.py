"""Batch norms with fixed statistics as part of the convolutions before them.

Such a norm multiplies every channel by a constant and adds another one. Done to the weights instead
of the output, it costs nothing; results differ by rounding only.
"""

import logging
from collections import Counter

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["FoldedConv2d", "fold_detector", "fold_frozen_norms", "fold_norms"]

logger = logging.getLogger(__name__)


class FoldedConv2d(Conv2d):
    """detectron2's convolution with a frozen norm, computed as one convolution.

    Parameters, buffers and their names stay what they are, and so do gradients and checkpoints.
    """

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        weight = self.weight * scale[:, None, None, None]
        x = F.conv2d(x, weight, shift, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


def fold_frozen_norms(module: nn.Module) -> int:
    """Make a :class:`FoldedConv2d` of all convolutions of ``module`` with a frozen norm.

    For training and inference, and it can go on changing weights. Returns how many there are.
    """
    count = 0
    for each in module.modules():
        if type(each) is Conv2d and type(each.norm) is FrozenBatchNorm2d:
            each.__class__ = FoldedConv2d
            count += 1
    return count


def fold_detector(model: nn.Module) -> int:
    """:func:`fold_norms` of a detector's backbone, for good; returns how many norms are gone.

    The weights of all convolutions are also ordered in memory as images are.
    """
    side = model.backbone.padding_constraints.get("square_size", 0)
    side = side or 2 * max(model.backbone.size_divisibility, 32)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, len(model.pixel_mean), side, side, generator=generator)
    count = fold_norms(model.backbone, example.to(model.pixel_mean))
    model.order_weights()
    return count


@torch.no_grad()
def fold_norms(module: nn.Module, example: Tensor) -> int:
    """Change the weights of convolutions so that batch norms behind them can go; inference only.

    Which norm is behind which convolution shows when ``module(example)`` runs. Left alone are
    norms with batch statistics, convolutions used more than once, and what does not come out equal.

    Args:
        module: in eval mode; gives a tensor, or a list, tuple or dict of them.
        example: any valid input.

    Returns:
        How many norms are gone.

    Raises:
        ValueError: in training mode.
    """
    if module.training:
        raise ValueError("norms can be folded for inference only: call .eval() first")
    for each in module.modules():
        if type(each) is FoldedConv2d:
            each.__class__ = Conv2d  # whose norm is a module that is called
    before = _tensors(module(example))
    folded = [pair for pair in _pairs(module, example) if pair.fold()]
    after = _tensors(module(example))
    if all(_equal(a, b) for a, b in zip(after, before, strict=True)):
        return len(folded)
    for pair in folded:
        pair.restore()
    logger.warning("Left %d batch norms where they are: without, results differ", len(folded))
    return 0


class _Pair:
    """A convolution and the norm behind it.

    Args:
        conv, norm: the two.
        x, y: what went into the convolution, and what came out of the norm.
        parent, name: where the norm is.
    """

    def __init__(self, conv, norm, x: Tensor, y: Tensor, parent: nn.Module, name: str):
        self.conv, self.norm, self.x, self.y = conv, norm, x, y
        self.parent, self.name = parent, name
        self.weight, self.bias = conv.weight, conv.bias

    def fold(self) -> bool:
        """Do it; False, and all as before, if the output is not the same."""
        conv, norm = self.conv, self.norm
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias,
        )  # fmt: skip
        act = getattr(norm, "act", nn.Identity())  # timm's norms contain it
        setattr(self.parent, self.name, act)
        expected = self.y
        if self.parent is not conv:
            same = _equal(act(conv(self.x)), expected)
        else:  # it calls the norm itself, and an activation behind it
            activation = conv.activation or nn.Identity()
            same = _equal(conv(self.x), activation(expected))
        if not same:
            self.restore()
        return same

    def restore(self) -> None:
        self.conv.weight, self.conv.bias = self.weight, self.bias
        setattr(self.parent, self.name, self.norm)


def _pairs(module: nn.Module, example: Tensor) -> list[_Pair]:
    """All that show when the module runs, each part of which runs once."""
    calls: Counter = Counter()
    inside: dict[nn.Module, tuple] = {}  # norms that a convolution calls: it and its input
    made: dict[int, tuple] = {}  # the same by the id of an output, which is kept, and so is its id
    pairs: list[_Pair] = []
    parents = {
        child: (parent, name)
        for parent in module.modules()
        for name, child in parent.named_children()
    }

    def starts(conv, inputs):
        calls[conv] += 1
        if isinstance(getattr(conv, "norm", None), nn.Module):
            inside[conv.norm] = conv, inputs[0].clone()

    def ends(conv, inputs, output):
        made[id(output)] = conv, inputs[0].clone(), output

    def normalised(norm, inputs, output):
        calls[norm] += 1
        found = inside.get(norm) or made.get(id(inputs[0]))
        if found:
            pairs.append(_Pair(found[0], norm, found[1], output.clone(), *parents[norm]))

    hooks = []
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            hooks += [each.register_forward_pre_hook(starts), each.register_forward_hook(ends)]
        elif getattr(each, "running_var", None) is not None:
            hooks.append(each.register_forward_hook(normalised))
    try:
        module(example)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for pair in pairs if calls[pair.conv] == calls[pair.norm] == 1]


def _tensors(output) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output.clone()]
    values = output.values() if isinstance(output, dict) else output
    return [x for value in values for x in _tensors(value)]


def _equal(a: Tensor, b: Tensor) -> bool:
    """But for rounding: what is done wrong differs by much more."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())
