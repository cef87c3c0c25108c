"""Where tensors live and how precisely networks compute."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

__all__ = ["PRECISIONS", "HostCopy", "autocast", "check_precision", "choose_device", "to_device"]

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


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or CUDA if it is there, else the CPU.

    Raises:
        ValueError: if there is no such device.
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
    """``tensor.to(device)``; to a GPU from memory that it can read by itself."""
    if device.type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor on its way to the host.

    Args:
        tensor: on any device, without gradient.
    """

    def __init__(self, tensor: Tensor):
        self._event = None
        self._copy = tensor.to("cpu", non_blocking=tensor.is_cuda)
        if tensor.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def get(self) -> Tensor:
        """The copy; waits for the work that was given to the GPU before it, and for no later."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy
