"""Deformable convolution on ``torchvision.ops``: runs without detectron2's compiled code."""

import torch
from detectron2.layers import Conv2d
from detectron2.modeling.backbone import BottleneckBlock, ResNet
from detectron2.modeling.backbone.resnet import CNNBlockBase
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

__all__ = ["DeformBottleneckBlock", "ModulatedDeformConv", "deform_stages", "offsets_and_mask"]


def offsets_and_mask(predicted: Tensor, groups: int = 1) -> tuple[Tensor, Tensor | None]:
    """Split the output of the offset convolution of a 3x3 kernel.

    Args:
        predicted: (N, 18 * groups, H, W): pairs (dy, dx) for each of the nine taps, version 1
            (arXiv 1703.06211); or (N, 27 * groups, H, W): version 2 (arXiv 1811.11168), where the
            last third are mask logits.

    Returns:
        Offsets (N, 18 * groups, H, W) and mask (N, 9 * groups, H, W) in (0, 1), or ``None``.
    """
    offsets, mask = predicted[:, : 18 * groups], predicted[:, 18 * groups :]
    return offsets, mask.sigmoid() if mask.shape[1] else None


class ModulatedDeformConv(nn.Module):
    """3x3 deformable convolution v2, with the convolution that predicts its offsets and mask."""

    def __init__(self, channels: int):
        super().__init__()
        self.offset = nn.Conv2d(channels, 27, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        offset, mask = offsets_and_mask(self.offset(x))
        return deform_conv2d(x, offset, self.conv.weight, self.conv.bias, padding=1, mask=mask)


class DeformBottleneckBlock(CNNBlockBase):
    """A bottleneck block of detectron2's ResNet with a deformable 3x3 convolution.

    Takes over the layers and weights of ``block``; names are those of detectron2's
    ``DeformBottleneckBlock``: ``conv2_offset`` predicts the offsets of ``conv2``.

    Args:
        block: plain block to replace.
        modulated: use deformable convolution v2 instead of v1.
        num_groups: number of offset groups.
    """

    def __init__(self, block: BottleneckBlock, *, modulated: bool, num_groups: int = 1):
        super().__init__(block.in_channels, block.out_channels, block.stride)
        self.num_groups = num_groups
        self.conv1, self.conv2, self.conv3 = block.conv1, block.conv2, block.conv3
        self.shortcut = block.shortcut
        self.conv2_offset = Conv2d(
            self.conv2.in_channels,
            (27 if modulated else 18) * num_groups,
            kernel_size=3,
            stride=self.conv2.stride,
            padding=self.conv2.padding,
            dilation=self.conv2.dilation,
        )
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.conv1(x))
        offset, mask = offsets_and_mask(self.conv2_offset(out), self.num_groups)
        conv = self.conv2
        out = deform_conv2d(
            out, offset, conv.weight, None, conv.stride, conv.padding, conv.dilation, mask
        )
        out = self.conv3(torch.relu(conv.norm(out)))
        return torch.relu(out + (x if self.shortcut is None else self.shortcut(x)))


def deform_stages(
    resnet: ResNet, stages: list[str], *, modulated: bool, num_groups: int = 1
) -> None:
    """Make the 3x3 convolutions of some stages deformable, in place.

    Args:
        resnet: ResNet with bottleneck blocks.
        stages: names of stages, such as ["res3", "res4", "res5"].
        modulated, num_groups: see :class:`DeformBottleneckBlock`.

    Raises:
        ValueError: if a stage has other blocks, as in ResNet-18 and 34.
    """
    for name in stages:
        stage = getattr(resnet, name)
        for i, block in enumerate(stage):
            if not isinstance(block, BottleneckBlock):
                raise ValueError(
                    f"MODEL.RESNETS.DEFORM_ON_PER_STAGE: {name} has no bottleneck blocks; "
                    "ResNet-18 and 34 cannot be made deformable"
                )
            stage[i] = DeformBottleneckBlock(block, modulated=modulated, num_groups=num_groups)
            if not block.conv1.weight.requires_grad:
                stage[i].freeze()
