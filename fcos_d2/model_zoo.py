"""Models of the configs that travel with the package, with their published weights."""

import torch
from detectron2.modeling import build_model

from .checkpoint import FCOSCheckpointer
from .checkpoint.published import PUBLISHED
from .config import config_folder, get_cfg, get_config_file, list_configs

__all__ = ["config_folder", "get", "get_config_file", "list_configs", "weights_url"]


def weights_url(config: str) -> str:
    """Address of the weights that were published for one of :func:`list_configs`.

    Raises:
        ValueError: if there are none, or none with an address.
    """
    name = config.removeprefix("configs/")
    entry = next((p for p in PUBLISHED if p.config == name), None)
    if entry is None or not entry.url:
        known = [p.config for p in PUBLISHED if p.url]
        file = f" Its file is called {entry.file}." if entry and entry.file else ""
        raise ValueError(
            f"no address of weights is known for {config}.{file} Known are those of "
            f"{', '.join(known)}"
        )
    return entry.url


def get(config: str, trained: bool = False, device: str | None = None):
    """Build a model, like detectron2's ``model_zoo.get``.

    Args:
        config: as :func:`get_config_file` takes it.
        trained: download the published weights and load them.
        device: default is CUDA if it is there, else the CPU.

    Returns:
        The model, in training mode, as detectron2 returns it.

    Raises:
        FileNotFoundError: for an unknown config.
        ValueError: if ``trained`` and no weights are known.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    address = weights_url(config) if trained else ""
    model = build_model(cfg)
    if address:
        FCOSCheckpointer(model).load(address)
    return model
