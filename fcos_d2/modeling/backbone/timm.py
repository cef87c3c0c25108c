"""Any timm model with feature maps of several strides as a detectron2 backbone."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn

__all__ = ["TimmBackbone"]

logger = logging.getLogger(__name__)


class TimmBackbone(Backbone):
    """``timm.create_model(name, features_only=True)`` with the feature names of a ResNet.

    Features are "res2" (stride 4) to "res5" (stride 32), only the requested ones. Parameters that
    feed no requested feature are frozen, otherwise DDP would wait for their gradients. Parameter
    names below ``model.`` are timm's.

    Args:
        name: name of a timm model.
        out_features: requested features; ``None`` takes strides 8, 16 and 32.
        pretrained: let timm download its weights.
        norm: "" keeps the model's norms, "FrozenBN" freezes batch norms at their loaded values,
            "SyncBN" computes their statistics over all processes.
        ese_in_every_block: VoVNets with channel attention (eSE) in every block, as AdelaiDet's
            have it, instead of in the last one of each stage.
        freeze_at: freeze the stem and stages up to this one, counted as in detectron2's ResNets
            (2: stem and everything of stride 4); 0 trains all.
        in_channels: channels of the images.

    Raises:
        ImportError: if timm is not installed.
        ValueError: if timm does not know the model, or ``norm`` is unknown.
    """

    def __init__(
        self,
        name: str,
        *,
        out_features: Sequence[str] | None = None,
        pretrained: bool = False,
        norm: str = "",
        freeze_at: int = 0,
        in_channels: int = 3,
        ese_in_every_block: bool = False,
    ):
        super().__init__()
        if norm not in ("", "FrozenBN", "SyncBN"):
            raise ValueError(
                f"MODEL.TIMM.NORM is {norm!r}, expected FrozenBN, SyncBN or an empty text"
            )
        self.model = _create(name, pretrained=pretrained, in_chans=in_channels)
        info: Any = self.model.feature_info
        # Of several features of a stride, the last one is the deepest.
        index = {f"res{r.bit_length() - 1}": i for i, r in enumerate(info.reduction())}
        self._out_features = list(out_features or ("res3", "res4", "res5"))
        missing = [f for f in self._out_features if f not in index]
        if missing:
            raise ValueError(
                f"timm's {name} has no features {missing} (strides 4, 8, 16, 32 are res2 to "
                f"res5), only strides {info.reduction()}"
            )
        self._index = [index[f] for f in self._out_features]
        self._out_feature_strides = {f: 2 ** int(f[3:]) for f in self._out_features}
        self._out_feature_channels = {f: info.channels()[index[f]] for f in self._out_features}
        if ese_in_every_block:
            _add_ese(self.model, name)
        self._convert_norm(norm)
        self._freeze(freeze_at)
        self._freeze_unused(in_channels)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map (N, 3, H, W) images to features "res2" to "res5" of stride s: (N, C, H/s, W/s)."""
        features = self.model(x)
        outputs = {}
        for name, i in zip(self._out_features, self._index, strict=True):
            feature, channels = features[i], self._out_feature_channels[name]
            if feature.shape[1] != channels and feature.shape[-1] == channels:
                feature = feature.permute(0, 3, 1, 2).contiguous()  # Swin returns NHWC
            outputs[name] = feature
        return outputs

    def _convert_norm(self, norm: str) -> None:
        # timm's own conversions, because its batch norms often contain the activation.
        from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d

        if norm == "FrozenBN":
            self.model = freeze_batch_norm_2d(self.model)
        elif norm == "SyncBN":
            self.model = convert_sync_batchnorm(self.model)

    def _freeze(self, freeze_at: int) -> None:
        """Freeze everything before the first feature with a stride above ``2 ** freeze_at``."""
        if freeze_at < 1:
            return
        info: Any = self.model.feature_info
        features = zip(info.module_name(), info.reduction(), strict=True)
        done = [name for name, reduction in features if reduction <= 2**freeze_at]
        if not done:
            return
        # timm keeps nested names or joins them with underscores.
        prefixes = (done[-1] + ".", done[-1].replace(".", "_") + ".")
        parameters = list(self.model.named_parameters())
        last = max(i for i, (name, _) in enumerate(parameters) if name.startswith(prefixes))
        for _, parameter in parameters[: last + 1]:
            parameter.requires_grad = False
        logger.info("Froze the backbone's first %d parameters, up to %s", last + 1, done[-1])

    def _freeze_unused(self, in_channels: int) -> None:
        """Freeze the parameters that get no gradient from the requested features."""
        was_training = self.training
        self.eval()  # keeps the statistics of batch norms
        features = self(torch.zeros(1, in_channels, 64, 64))
        wanted = [p for p in self.parameters() if p.requires_grad]
        if wanted:
            total = sum(f.sum() for f in features.values())
            gradients = torch.autograd.grad(total, wanted, allow_unused=True)
            for parameter, gradient in zip(wanted, gradients, strict=True):
                parameter.requires_grad = gradient is not None
        self.train(was_training)


def _add_ese(model: nn.Module, name: str) -> None:
    from timm.layers import EffectiveSEModule
    from timm.models.vovnet import OsaBlock

    blocks = [m for m in model.modules() if isinstance(m, OsaBlock)]
    if not blocks:
        raise ValueError(f"MODEL.TIMM.ESE_IN_EVERY_BLOCK is for VoVNets; {name} is not one")
    for block in blocks:
        if block.attn is None:
            block.attn = EffectiveSEModule(block.conv_concat.conv.out_channels)


def _create(name: str, **kwargs) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm backbones need timm: pip install timm") from error
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(f"timm knows no model MODEL.TIMM.NAME {name!r}; near: {', '.join(near)}")
    kwargs["features_only"] = True
    try:
        # Otherwise transformers accept only the image size they were trained on.
        return timm.create_model(name, strict_img_size=False, **kwargs)
    except TypeError:
        return timm.create_model(name, **kwargs)
