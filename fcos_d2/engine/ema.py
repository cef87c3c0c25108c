"""Exponential moving average of weights (Polyak averaging), for evaluation."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["EMA"]


class EMA:
    """Moving average of a model's weights and statistics.

    Args:
        model: model to average; the average starts from its current values.
        decay: share of the old average that a step keeps; less in early steps, to forget the start.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999):
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY must lie between 0 and 1, got {decay}")
        self.model = model
        self.decay = decay
        self.steps = 0
        self.average = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the model's current weights to the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for key, value in self.model.state_dict().items():
            average = self.average[key]
            if value.is_floating_point():
                average.lerp_(value.to(average.device), 1 - decay)
            else:
                average.copy_(value)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Context in which the model has the averaged weights."""
        present = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(present)

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "model": dict(self.average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        for key, value in self.average.items():
            value.copy_(state["model"][key])

    def restart(self) -> None:
        """Restart the average from the model's current weights."""
        self.load_state_dict({"steps": 0, "model": self.model.state_dict()})
