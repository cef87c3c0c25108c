"""Facts about machine and installation, and pairs of versions that do not work together."""

import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence

import torch
from tabulate import tabulate

__all__ = ["installed_versions", "known_problems", "machine_facts", "peak_memory_mib", "report"]

_PACKAGES = (
    *("torch", "torchvision", "detectron2", "fvcore", "iopath", "pycocotools", "numpy", "pillow"),
    *("opencv-python", "opencv-python-headless", "timm", "matplotlib", "onnx", "onnxruntime"),
    "setuptools",
)
# Other distributions that install the same package.
_ALIASES = {"detectron2": ("sal-detectron2",)}


def installed_versions(packages: Sequence[str] = _PACKAGES) -> dict[str, str]:
    """Versions of packages, by default all that matter here; "" for those not installed."""
    versions = {}
    for name in packages:
        versions[name] = ""
        for alias in (name, *_ALIASES.get(name, ())):
            try:
                versions[name] = importlib.metadata.version(alias)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return versions


def known_problems(versions: Mapping[str, str]) -> list[str]:
    """One sentence, with a fix, for each known problem of :func:`installed_versions`."""
    problems = []
    if not versions.get("detectron2"):
        problems.append("detectron2 is not installed: see Install in the README")
    setuptools_major = versions.get("setuptools", "").split(".")[0]
    if setuptools_major.isdigit() and int(setuptools_major) >= 82:
        problems.append(
            "setuptools 82 dropped a module that detectron2.model_zoo imports: "
            "pip install 'setuptools<81', or use fcos_d2.model_zoo"
        )
    if versions.get("opencv-python") and versions.get("opencv-python-headless"):
        problems.append(
            "opencv-python and opencv-python-headless overwrite each other: uninstall both and "
            "install one"
        )
    torch_version, vision = versions.get("torch", ""), versions.get("torchvision", "")
    if not _fits(torch_version, vision):
        problems.append(
            f"torchvision {vision} was not built for torch {torch_version}: install both together"
        )
    return problems


def report(first_rows: Mapping[str, str]) -> tuple[str, list[str]]:
    """Table for a bug report, and the known problems of this installation.

    Args:
        first_rows: rows about fcos_d2 itself.
    """
    versions = installed_versions()
    problems = known_problems(versions)
    rows = [
        *first_rows.items(),
        ("Python", f"{platform.python_version()}, {sys.executable}"),
        ("system", platform.platform()),
        *((name, version or "not installed") for name, version in versions.items()),
        ("detectron2's operators", _compiled_operators()),
        ("devices", _devices()),
        ("threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        ("datasets", os.environ.get("DETECTRON2_DATASETS", "datasets (DETECTRON2_DATASETS)")),
    ]
    return tabulate(rows, tablefmt="plain"), problems


def machine_facts(device: torch.device) -> dict[str, str | int]:
    """Hardware and settings that decide how fast ``device`` computes."""
    facts: dict[str, str | int] = {
        "device": str(device),
        "CPU": _cpu_name(),
        "CPU cores": os.cpu_count() or 0,
        "torch threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        facts |= {"GPU": torch.cuda.get_device_name(device), "CUDA": torch.version.cuda or ""}
    return facts | {"torch": torch.__version__}


def peak_memory_mib() -> int | None:
    """Largest resident memory of this process so far, in MiB; None where it is unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if platform.system() == "Darwin" else 2**10))


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            match = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def _fits(torch_version: str, vision: str) -> bool:
    """True unless the versions are known not to belong together: torch 2.n, 0.(n + 15)."""
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
