"""The configs that travel with the package."""

import difflib
import os
from pathlib import Path

__all__ = ["config_folder", "get_config_file", "list_configs"]


def config_folder() -> Path:
    """``configs/`` inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs() -> list[str]:
    """Names that :func:`get_config_file` takes, relative to the configs folder."""
    root = config_folder()
    return sorted(str(path.relative_to(root)) for path in root.rglob("*.yaml"))


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
