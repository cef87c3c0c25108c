"""Copies between the host and a GPU that do not wait for what the GPU still has to do."""

import torch
from torch import Tensor

__all__ = ["HostCopy", "to_device"]


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
