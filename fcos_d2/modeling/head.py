"""The FCOS head: two towers shared by all levels, three predictions (FCOS paper, figure 2)."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .backbone.deform import ModulatedDeformConv
from .box_coder import BoxCoder, LtrbExp, LtrbRelu
from .locations import Locations

__all__ = ["FCOSHead", "PerLevelNorm", "Predictions", "Scale", "Tower", "flatten_maps"]

NORMS = ("GN", "BN", "SyncBN", "")


@dataclass(frozen=True)
class Predictions:
    """Dense predictions of N images on L levels.

    Attributes:
        logits: L maps (N, C, H_l, W_l) of class logits.
        boxes: L maps (N, B, H_l, W_l) of raw box numbers; a :class:`BoxCoder` decodes them.
        quality: L maps (N, 1, H_l, W_l) of centerness or IoU logits.
        locations: the P locations of the maps.
    """

    logits: Sequence[Tensor]
    boxes: Sequence[Tensor]
    quality: Sequence[Tensor]
    locations: Locations


def flatten_maps(maps: Sequence[Tensor]) -> Tensor:
    """L maps (N, K, H_l, W_l) -> (N, P, K)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


class Scale(nn.Module):
    """A trainable scalar; each level has one, so that the shared box branch can adapt to it."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PerLevelNorm(nn.ModuleList):
    """One norm per level: batch statistics differ between levels."""

    def forward(self, x: Tensor, level: int) -> Tensor:
        return self[level](x)


class Tower(nn.Sequential):
    """``num_convs`` times convolution, norm, ReLU; levels share everything except batch norms."""

    def __init__(
        self, channels: int, num_convs: int, num_levels: int, norm: str, deformable: bool = False
    ):
        layers: list[nn.Module] = []
        for i in range(num_convs):
            is_last = i == num_convs - 1
            if deformable and is_last:
                layers.append(ModulatedDeformConv(channels))
            else:
                layers.append(nn.Conv2d(channels, channels, 3, padding=1))
            if norm:
                layers.append(_tower_norm(norm, channels, num_levels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)

    def forward(self, x: Tensor, level: int) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, level) if isinstance(layer, PerLevelNorm) else layer(x)
        return x


def _tower_norm(norm: str, channels: int, num_levels: int) -> nn.Module:
    if norm == "GN":
        return nn.GroupNorm(32, channels)
    kind = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}[norm]
    return PerLevelNorm(kind(channels) for _ in range(num_levels))


class FCOSHead(nn.Module):
    """Class logits, raw box numbers and a quality logit for every location.

    Args:
        in_channels: channels of every feature map.
        num_levels: L, number of feature maps.
        num_classes: C, foreground classes.
        num_cls_convs, num_box_convs: convolutions in the two towers.
        num_share_convs: convolutions that both towers share, before them.
        norm: norm of the towers: "GN", "BN" or "SyncBN" (one norm for each level), or "".
        use_deformable: make the last convolution of both towers deformable.
        use_scale: learn one factor per level for the raw box numbers.
        prior_prob: class probability that the untrained head predicts.
        prior_distance: distance in strides that the untrained head predicts for all sides; 0 is
            the published start, from which a side can die in its ReLU. Not used by LtrbExp.
        centerness_on_reg: predict quality from the box tower, otherwise from the class tower.
        box_coder: representation of boxes; default :class:`LtrbRelu`.
        norm_reg_targets: deprecated; True means LtrbRelu, False LtrbExp.

    Raises:
        ValueError: for an unknown norm, or channels that GN's 32 groups do not divide.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        num_classes: int,
        num_cls_convs: int = 4,
        num_box_convs: int = 4,
        num_share_convs: int = 0,
        norm: str = "GN",
        use_deformable: bool = False,
        use_scale: bool = True,
        prior_prob: float = 0.01,
        prior_distance: float = 0.0,
        centerness_on_reg: bool = True,
        box_coder: BoxCoder | None = None,
        norm_reg_targets: bool | None = None,
    ):
        super().__init__()
        norm = _check_norm(norm, in_channels)
        if not 0 < prior_prob < 1:
            raise ValueError(f"MODEL.FCOS.PRIOR_PROB must lie between 0 and 1, got {prior_prob}")
        if norm_reg_targets is not None:
            warnings.warn(
                "FCOSHead(norm_reg_targets=...) is deprecated: give box_coder=LtrbRelu() or "
                "LtrbExp()",
                FutureWarning,
                stacklevel=2,
            )
            box_coder = LtrbRelu() if norm_reg_targets else LtrbExp()
        self.num_levels = num_levels
        self.num_classes = num_classes
        self.prior_prob = prior_prob
        self.prior_distance = prior_distance
        self.centerness_on_reg = centerness_on_reg
        self.box_coder = box_coder or LtrbRelu()

        self.share_tower = Tower(in_channels, num_share_convs, num_levels, norm)
        self.cls_tower = Tower(in_channels, num_cls_convs, num_levels, norm, use_deformable)
        self.bbox_tower = Tower(in_channels, num_box_convs, num_levels, norm, use_deformable)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, self.box_coder.num_channels, 3, padding=1)
        self.ctrness = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels)) if use_scale else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialize as RetinaNet does: small normal weights, biases at the priors."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        distance = self.box_coder.initial_bias(self.prior_distance)
        logit = -math.log((1 - self.prior_prob) / self.prior_prob)
        nn.init.constant_(self.bbox_pred.bias, distance)  # type: ignore[arg-type]
        nn.init.constant_(self.cls_logits.bias, logit)  # type: ignore[arg-type]

    def forward(
        self, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Predict every level.

        Args:
            features: L feature maps (N, in_channels, H_l, W_l), fine to coarse.

        Returns:
            Three lists of L maps: class logits (N, C, H_l, W_l), raw box numbers (N, B, H_l, W_l)
            for ``box_coder``, quality logits (N, 1, H_l, W_l).
        """
        logits, boxes, quality = [], [], []
        for level, x in enumerate(features):
            x = self.share_tower(x, level)
            cls_feature, box_feature = self.cls_tower(x, level), self.bbox_tower(x, level)
            logits.append(self.cls_logits(cls_feature))
            raw = self.bbox_pred(box_feature)
            boxes.append(raw if self.scales is None else self.scales[level](raw))
            quality.append(self.ctrness(box_feature if self.centerness_on_reg else cls_feature))
        return logits, boxes, quality


def _check_norm(norm: str, channels: int) -> str:
    norm = {"none": "", "NaiveGN": "GN"}.get(norm, norm)  # AdelaiDet's other spellings
    if norm not in NORMS:
        raise ValueError(f"MODEL.FCOS.NORM is {norm!r}, expected GN, BN, SyncBN or an empty text")
    if norm == "GN" and channels % 32:
        raise ValueError(
            f"MODEL.FCOS.NORM 'GN' has 32 groups, which do not divide {channels} channels: make "
            "MODEL.FPN.OUT_CHANNELS a multiple of 32 or choose another norm"
        )
    return norm
