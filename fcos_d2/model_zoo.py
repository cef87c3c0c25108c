"""The configs that travel with the package, and the published weights that fit them."""

import difflib
import os
from pathlib import Path

from .published import PUBLISHED

__all__ = ["config_folder", "get", "get_config_file", "list_configs", "weights_url"]


def config_folder() -> Path:
    """``configs/`` inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs() -> list[str]:
    """Names that :func:`get_config_file` takes, relative to the configs folder, without bases."""
    root = config_folder()
    paths = (path for path in root.rglob("*.yaml") if not path.name.startswith("Base-"))
    return sorted(path.relative_to(root).as_posix() for path in paths)


def get_config_file(name: str) -> str:
    """Path of a config, from any working folder.

    Args:
        name: a name of :func:`list_configs`, such as "fcos_R_50_FPN_1x.yaml" (a leading
            "configs/" is ignored), or the path of an existing file, which wins.

    Raises:
        FileNotFoundError: naming the nearest known config.
    """
    if os.path.isfile(name):
        return os.path.abspath(name)
    inside = config_folder() / name.removeprefix("configs/")
    if inside.is_file():
        return str(inside)
    known = list_configs()
    near = difflib.get_close_matches(name.removeprefix("configs/"), known, n=3)
    raise FileNotFoundError(
        f"no config file {name!r}, neither on disk nor in the package; "
        f"{'nearest: ' + ', '.join(near) if near else 'known: ' + ', '.join(known)}"
    )


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
    import torch
    from detectron2.modeling import build_model

    from .checkpoint import FCOSCheckpointer
    from .config import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(config))
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    address = weights_url(config) if trained else ""
    model = build_model(cfg)
    if address:
        FCOSCheckpointer(model).load(address)
    return model
