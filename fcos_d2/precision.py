"""Precisions that a network can compute in."""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["PRECISIONS", "autocast", "check_precision"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Within this, networks on ``device`` compute in ``precision``.

    Raises:
        ValueError: see :func:`check_precision`.
    """
    check_precision(precision, device)
    kind = PRECISIONS[precision]
    return torch.autocast(device.type, dtype=kind) if kind else nullcontext()


def check_precision(precision: str, device: torch.device, key: str = "precision") -> None:
    """Raises ValueError, which names ``key``, for an unknown precision and for fp16 on the CPU."""
    if precision not in PRECISIONS:
        raise ValueError(f"{key} is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(f"{key} fp16 does not work on the CPU: take bf16 or fp32, or a GPU")
