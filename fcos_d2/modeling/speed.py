"""Faster networks with the same results up to rounding: memory order, folded norms, compilation.

A batch norm with fixed statistics multiplies every channel by a constant and adds another one.
Folding does this to the weights of the preceding convolution instead of to its output.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = [
    "COMPILE_MODES",
    "MEMORY_FORMATS",
    "FoldedConv2d",
    "compile_function",
    "fold_detector",
    "fold_for_inference",
    "fold_for_training",
    "order_weights",
    "uses_channels_last",
]

MEMORY_FORMATS = ("auto", "channels_last", "contiguous")
COMPILE_MODES = ("", "default", "reduce-overhead", "max-autotune")

logger = logging.getLogger(__name__)


def uses_channels_last(memory_format: str, device: torch.device) -> bool:
    """True if images and features are in channels-last order: "auto" uses it on a CPU."""
    return memory_format == "channels_last" or (memory_format == "auto" and device.type == "cpu")


def order_weights(module: nn.Module) -> None:
    """Put the weights of all convolutions into channels-last order, in place.

    Convolutions of channels-last images then need no copies of their weights.
    """
    for weight in module.parameters():
        if weight.dim() == 4:
            # Unlike .to(), this gives 1x1 kernels the strides that their gradients have.
            ordered = torch.empty_like(weight, memory_format=torch.channels_last)
            weight.data = ordered.copy_(weight.data)


def compile_function(function: Callable, module: nn.Module, mode: str) -> Callable:
    """Compile a function of ``module`` into one graph.

    Compilation happens on the first call and again for a new batch or image size.

    Args:
        function: function to compile, whose first argument is ``module``.
        module: module whose layers decide about dynamic shapes.
        mode: "default", "reduce-overhead" (CUDA graphs, for sizes that repeat) or
            "max-autotune".
    """
    # Dynamic shapes make tracing of timm's Conv2dSame run forever.
    same_padding = any(type(each).__name__ == "Conv2dSame" for each in module.modules())
    return torch.compile(function, mode=mode, dynamic=False if same_padding else None)


class FoldedConv2d(Conv2d):
    """detectron2's convolution with a frozen norm, computed as one convolution.

    Names and values of parameters and buffers do not change, nor do gradients and checkpoints.
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


def fold_for_training(module: nn.Module) -> int:
    """Turn all convolutions of ``module`` with a frozen norm into :class:`FoldedConv2d`.

    The weights can still be trained and loaded. Returns the number of these convolutions.
    """
    count = 0
    for each in module.modules():
        if type(each) is Conv2d and type(each.norm) is FrozenBatchNorm2d:
            each.__class__ = FoldedConv2d
            count += 1
    return count


def fold_detector(model: Any) -> int:
    """Apply :func:`fold_for_inference` to the backbone of an FCOS; return the number of norms.

    The weights of all convolutions are also put into the memory order of the images.
    """
    side = model.backbone.padding_constraints.get("square_size", 0)
    side = side or 2 * max(model.backbone.size_divisibility, 32)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, len(model.pixel_mean), side, side, generator=generator)
    count = fold_for_inference(model.backbone, example.to(model.pixel_mean))
    if model.is_channels_last:
        order_weights(model)
    return count


@torch.no_grad()
def fold_for_inference(module: nn.Module, example: Tensor) -> int:
    """Fold batch norms into the preceding convolutions and remove them (inference only).

    Convolution-norm pairs are found by running ``module(example)`` with hooks. Norms with batch
    statistics, convolutions that run more than once, and pairs whose folded output differs are
    left as they are.

    Args:
        module: module in eval mode that returns a tensor, or a list, tuple or dict of tensors.
        example: any valid input.

    Returns:
        Number of removed norms.

    Raises:
        ValueError: in training mode.
    """
    if module.training:
        raise ValueError("norms are folded for inference only: call .eval() first")
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
    logger.warning("Kept %d batch norms: without them the results differ", len(folded))
    return 0


class _Pair:
    """A convolution and the norm that follows it.

    Args:
        conv, norm: the convolution and the norm.
        x, y: input of the convolution and output of the norm.
        parent, name: module and attribute that hold the norm.
    """

    def __init__(self, conv: Any, norm: Any, x: Tensor, y: Tensor, parent: nn.Module, name: str):
        self.conv, self.norm, self.x, self.y = conv, norm, x, y
        self.parent, self.name = parent, name
        self.weight, self.bias = conv.weight, conv.bias

    def fold(self) -> bool:
        """Fold; if the output differs, undo it and return False."""
        conv: Any = self.conv
        norm = self.norm
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight,
            norm.bias,
        )  # fmt: skip
        act: nn.Module = getattr(norm, "act", nn.Identity())  # timm's norms contain it
        setattr(self.parent, self.name, act)
        expected = self.y
        if self.parent is not conv:
            same = _equal(act(conv(self.x)), expected)
        else:  # it calls the norm itself, and an activation behind it
            activation: Any = conv.activation or nn.Identity()
            same = _equal(conv(self.x), activation(expected))
        if not same:
            self.restore()
        return same

    def restore(self) -> None:
        self.conv.weight, self.conv.bias = self.weight, self.bias
        setattr(self.parent, self.name, self.norm)


def _pairs(module: nn.Module, example: Tensor) -> list[_Pair]:
    """Pairs that are found when the module runs, whose convolution and norm run once."""
    calls: Counter = Counter()
    inside: dict[nn.Module, tuple] = {}  # norm inside a convolution -> convolution, its input
    made: dict[int, tuple] = {}  # id of an output (kept alive) -> convolution, its input, output
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

    def record_pair(norm, inputs, output):
        calls[norm] += 1
        found = inside.get(norm) or made.get(id(inputs[0]))
        if found:
            pairs.append(_Pair(found[0], norm, found[1], output.clone(), *parents[norm]))

    hooks = []
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            hooks += [each.register_forward_pre_hook(starts), each.register_forward_hook(ends)]
        elif getattr(each, "running_var", None) is not None:
            hooks.append(each.register_forward_hook(record_pair))
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
    """Equal up to rounding; a wrong fold differs by orders of magnitude."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-3 * b.abs().max())
