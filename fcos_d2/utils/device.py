"""Devices, precision of computation, and non-blocking host-device copies."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = [
    "PRECISIONS",
    "HostCopy",
    "autocast",
    "check_precision",
    "choose_device",
    "parse_precision",
    "to_device",
]

# Spellings of the precisions; the first of each is the name used in messages and results.
_SPELLINGS = {
    "fp32": ("fp32", "float32", "float"),
    "bf16": ("bf16", "bfloat16"),
    "fp16": ("fp16", "float16", "half"),
}
_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(_SPELLINGS)


def parse_precision(text: str, key: str = "precision") -> str:
    """Canonical name of a precision: "fp32", "bf16" or "fp16".

    Raises:
        ValueError: for an unknown spelling, naming the option ``key`` and the known spellings.
    """
    for name, spellings in _SPELLINGS.items():
        if text in spellings:
            return name
    known = ", ".join(" = ".join(spellings) for spellings in _SPELLINGS.values())
    raise ValueError(f"{key} is {text!r}, expected one of {known}")


def check_precision(precision: str, device: torch.device, key: str = "precision") -> str:
    """Canonical name of a precision that ``device`` can compute in.

    Raises:
        ValueError: naming ``key``, for an unknown precision and for fp16 on a CPU.
    """
    precision = parse_precision(precision, key)
    if precision == "fp16" and device.type == "cpu":
        raise ValueError(f"{key} fp16 does not work on the CPU: take bf16 or fp32, or a GPU")
    return precision


def autocast(precision: str, device: torch.device) -> AbstractContextManager:
    """Autocast context for ``precision`` on ``device``.

    Raises:
        ValueError: see :func:`check_precision`.
    """
    dtype = _DTYPES[check_precision(precision, device)]
    return torch.autocast(device.type, dtype=dtype) if dtype else nullcontext()


def choose_device(device: str | torch.device | None) -> torch.device:
    """The requested device; ``None`` chooses CUDA if it is available, else the CPU.

    Raises:
        ValueError: for an unknown device, or a GPU that torch does not see.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: give cpu, cuda or cuda:1") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"there is no device {device}: torch sees {torch.cuda.device_count()} GPUs. Give cpu, "
            "or leave the device out"
        )
    return chosen


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to ``device``; to a GPU from pinned memory, without waiting for it."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """Non-blocking copy of a tensor without gradient to the host."""

    def __init__(self, tensor: Tensor):
        self._event = None
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        if tensor.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def get(self) -> Tensor:
        """The copy; waits only for work that was queued on the GPU before it."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
