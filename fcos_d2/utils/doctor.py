"""What a bug report needs, and pairs of versions that are known not to work together."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping

import torch
from tabulate import tabulate

__all__ = ["installed_versions", "known_problems", "report"]

_PACKAGES = (
    *("torch", "torchvision", "detectron2", "fvcore", "iopath", "pycocotools", "numpy", "pillow"),
    *("opencv-python", "opencv-python-headless", "timm", "matplotlib", "onnx", "onnxruntime"),
    "setuptools",
)
# Other names that a package is installed under.
_ALIASES = {"detectron2": ("sal-detectron2",)}


def installed_versions() -> dict[str, str]:
    """Version of every package that matters; "" for those not installed."""
    versions = {}
    for name in _PACKAGES:
        versions[name] = ""
        for alias in (name, *_ALIASES.get(name, ())):
            try:
                versions[name] = importlib.metadata.version(alias)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def known_problems(versions: Mapping[str, str]) -> list[str]:
    """A sentence with the fix for each pair of versions that is known to fail.

    Args:
        versions: as :func:`installed_versions` gives them.
    """
    problems = []
    if not versions.get("detectron2"):
        problems.append("detectron2 is not installed: see Install in the README")
    if _major(versions, "setuptools") >= 82:
        problems.append(
            "setuptools 82 dropped a module that detectron2.model_zoo imports: "
            "pip install 'setuptools<81', or use fcos_d2.model_zoo"
        )
    both = versions.get("opencv-python") and versions.get("opencv-python-headless")
    if both:
        problems.append(
            "opencv-python and opencv-python-headless overwrite each other: uninstall both and "
            "install one"
        )
    torch_version, vision = versions.get("torch", ""), versions.get("torchvision", "")
    if torch_version and vision and not _fits(torch_version, vision):
        problems.append(
            f"torchvision {vision} was not built for torch {torch_version}: install both together"
        )
    return problems


def report(about: Mapping[str, str]) -> tuple[str, list[str]]:
    """The block for a bug report, and the problems found.

    Args:
        about: rows about fcos_d2 itself, which come first.
    """
    versions = installed_versions()
    problems = known_problems(versions)
    rows = [
        *about.items(),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("system", platform.platform()),
        *((name, version or "not installed") for name, version in versions.items()),
        ("detectron2's operators", _compiled_operators()),
        ("devices", _devices()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("data sets", os.environ.get("DETECTRON2_DATASETS", "datasets (DETECTRON2_DATASETS)")),
    ]
    return tabulate(rows, tablefmt="plain"), problems


def _major(versions: Mapping[str, str], name: str) -> int:
    first = versions.get(name, "").split(".")[0]
    return int(first) if first.isdigit() else 0


def _fits(torch_version: str, vision: str) -> bool:
    """torchvision 0.(n + 15) belongs to torch 2.n."""
    try:
        major, minor = (int(x) for x in torch_version.split("+")[0].split(".")[:2])
        vision_minor = int(vision.split(".")[1])
    except (ValueError, IndexError):
        return True
    return major != 2 or vision_minor == minor + 15


def _compiled_operators() -> str:
    try:
        import detectron2._C  # noqa: F401
    except ImportError:
        return "absent (nothing here needs them)"
    return "present"


def _devices() -> str:
    if not torch.cuda.is_available():
        return "CPU only"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"CUDA {torch.version.cuda}: {', '.join(names)}"
