"""Models of the configs in the package, with their published weights."""

import torch
from detectron2.modeling import build_model
from torch import nn

from .checkpoint import FCOSCheckpointer
from .checkpoint.published import PUBLISHED
from .config import config_folder, get_cfg, get_config_file, list_configs
from .utils.device import choose_device

__all__ = ["config_folder", "get", "get_config_file", "list_configs", "weights_url"]


def weights_url(config: str) -> str:
    """Address of the published weights of a config.

    Args:
        config: a name from :func:`list_configs`.

    Raises:
        ValueError: if no weights were published, or their address is unknown.
    """
    name = config.removeprefix("configs/")
    entry = next((p for p in PUBLISHED if p.config == name), None)
    if entry is None or not entry.url:
        known = [p.config for p in PUBLISHED if p.url]
        file = f" Its file is called {entry.file}." if entry and entry.file else ""
        raise ValueError(
            f"no address of weights is known for {config}.{file} Configs with known addresses: "
            f"{', '.join(known)}"
        )
    return entry.url


def get(config: str, trained: bool = False, device: str | torch.device | None = None) -> nn.Module:
    """Build a model, like detectron2's ``model_zoo.get``.

    Args:
        config: a name or path for :func:`get_config_file`.
        trained: download the published weights and load them.
        device: device of the model; None chooses CUDA if it is available, else the CPU.

    Returns:
        The model in training mode, like detectron2's.

    Raises:
        FileNotFoundError: for an unknown config.
        ValueError: for an impossible device, or if ``trained`` and no weights are known.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.MODEL.DEVICE = str(choose_device(device))
    address = weights_url(config) if trained else ""
    model = build_model(cfg)
    if address:
        FCOSCheckpointer(model).load(address)
    return model
