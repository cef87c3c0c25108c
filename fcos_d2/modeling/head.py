"""The FCOS head: two towers shared by all levels, three predictions (FCOS paper, figure 2)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbone.deform import ModulatedDeformConv

__all__ = ["FCOSHead", "PerLevelNorm", "Scale", "Tower"]

NORMS = ("GN", "BN", "SyncBN", "")
# exp of this is about 1e6 pixels: no image is larger, and nothing that follows overflows.
_MAX_LOG_DISTANCE = math.log(1e6)


class Scale(nn.Module):
    """A trainable scalar; each level has one, so that the shared box branch can adapt to it."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([value]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class PerLevelNorm(nn.ModuleList):
    """One normalisation per level. Batch statistics differ between levels, weights do not."""

    def forward(self, x: Tensor, level: int) -> Tensor:
        return self[level](x)


class Tower(nn.Sequential):
    """``num_convs`` times convolution, norm, ReLU; shared by all levels but for batch norms."""

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

    def forward(self, x: Tensor, level: int) -> Tensor:
        for layer in self:
            x = layer(x, level) if isinstance(layer, PerLevelNorm) else layer(x)
        return x


def _tower_norm(norm: str, channels: int, num_levels: int) -> nn.Module:
    if norm == "GN":
        return nn.GroupNorm(32, channels)
    kind = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}[norm]
    return PerLevelNorm(kind(channels) for _ in range(num_levels))


class FCOSHead(nn.Module):
    """Class logits, ltrb distances and a quality logit for every location.

    Args:
        in_channels: channels of every feature map.
        num_levels: L, number of feature maps.
        num_classes: C, foreground classes.
        num_cls_convs, num_box_convs: convolutions in the two towers.
        num_share_convs: convolutions before them that both share.
        norm: of the towers: "GN", "BN" or "SyncBN" (one norm for each level), or "" for none.
        use_deformable: make the last convolution of both towers deformable.
        use_scale: learn one factor per level for the distances.
        prior_prob: class probability that the untrained head predicts.
        prior_distance: distance in strides that it predicts, for all sides and levels; 0 is the
            published start, at which a side can die in its ReLU. Not used with exp.
        centerness_on_reg: predict quality from the box tower, otherwise from the class tower.
        norm_reg_targets: distances are in strides and pass a ReLU; otherwise in pixels, and exp.

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
        norm_reg_targets: bool = True,
    ):
        super().__init__()
        norm = {"none": "", "NaiveGN": "GN"}.get(norm, norm)  # AdelaiDet's other spellings
        if norm not in NORMS:
            raise ValueError(
                f"MODEL.FCOS.NORM is {norm!r}, expected GN, BN, SyncBN or an empty text"
            )
        if norm == "GN" and in_channels % 32:
            raise ValueError(
                f"MODEL.FCOS.NORM 'GN' has 32 groups, which do not divide {in_channels} channels: "
                "make MODEL.FPN.OUT_CHANNELS a multiple of 32 or choose another norm"
            )
        if not 0 < prior_prob < 1:
            raise ValueError(f"MODEL.FCOS.PRIOR_PROB must lie between 0 and 1, got {prior_prob}")
        self.num_levels = num_levels
        self.num_classes = num_classes
        self.prior_prob = prior_prob
        self.prior_distance = prior_distance
        self.centerness_on_reg = centerness_on_reg
        self.norm_reg_targets = norm_reg_targets

        self.share_tower = Tower(in_channels, num_share_convs, num_levels, norm)
        self.cls_tower = Tower(in_channels, num_cls_convs, num_levels, norm, use_deformable)
        self.bbox_tower = Tower(in_channels, num_box_convs, num_levels, norm, use_deformable)
        self.cls_logits = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.ctrness = nn.Conv2d(in_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels)) if use_scale else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as RetinaNet does: small normal weights, biases at the priors."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        if self.norm_reg_targets:
            nn.init.constant_(self.bbox_pred.bias, self.prior_distance)
        nn.init.constant_(self.cls_logits.bias, -math.log((1 - self.prior_prob) / self.prior_prob))

    def forward(
        self, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Predict every level.

        Args:
            features: L feature maps (N, in_channels, H_l, W_l), fine to coarse.

        Returns:
            Three lists of L maps: logits (N, C, H_l, W_l), distances (N, 4, H_l, W_l), not
            negative, in strides or pixels (``norm_reg_targets``), quality (N, 1, H_l, W_l).
        """
        logits, distances, quality = [], [], []
        for level, x in enumerate(features):
            x = self.share_tower(x, level)
            cls_feature, box_feature = self.cls_tower(x, level), self.bbox_tower(x, level)
            logits.append(self.cls_logits(cls_feature))
            distances.append(self._distances(self.bbox_pred(box_feature), level))
            quality.append(self.ctrness(box_feature if self.centerness_on_reg else cls_feature))
        return logits, distances, quality

    def _distances(self, raw: Tensor, level: int) -> Tensor:
        if self.scales is not None:
            raw = self.scales[level](raw)
        if self.norm_reg_targets:
            return F.relu(raw)
        return raw.float().clamp(max=_MAX_LOG_DISTANCE).exp()
