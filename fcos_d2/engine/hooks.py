"""Hooks of training: best checkpoint, early stopping, and the loss on the test set."""

import logging
import math
from collections.abc import Iterable
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..checkpoint.checkpointer import BEST
from ..modeling.fcos import FCOS

__all__ = ["BestCheckpoint", "StopTraining", "ValidationLoss", "validation_losses"]

logger = logging.getLogger(__name__)


class StopTraining(BaseException):  # detectron2 logs every Exception as a failure
    """Raised by a hook to end training early; it is not a failure."""


class BestCheckpoint(HookBase):
    """Save ``model_best`` when a metric improves; end training when it stops improving.

    Args:
        period: iterations between evaluations.
        metric: name of a logged metric, such as "bbox/AP"; higher is better.
        patience: number of evaluations without improvement that end training; 0 never ends it.
    """

    def __init__(self, period: int, metric: str, patience: int):
        self.period, self.metric, self.patience = period, metric, patience
        self.best = -math.inf
        self.best_iteration = -1
        self.without_improvement = 0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._update_best()
            if self._shared_decision():
                raise StopTraining

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._update_best()

    def _update_best(self) -> None:
        if not comm.is_main_process():
            return
        latest = self.trainer.storage.latest().get(self.metric)
        if latest is None:
            logger.warning("No %s was measured, so no best checkpoint is kept", self.metric)
            return
        value, iteration = latest
        if math.isfinite(value) and value > self.best:
            self.best, self.best_iteration, self.without_improvement = value, iteration, 0
            logger.info("Best %s so far: %.3f", self.metric, value)
            self.trainer.checkpointer.save(BEST, iteration=iteration)
        else:
            self.without_improvement += 1

    def _shared_decision(self) -> bool:
        stop = bool(self.patience) and self.without_improvement >= self.patience
        stop = comm.all_gather(stop)[0]
        if stop and comm.is_main_process():
            logger.info(
                "Training ends early: %s has not exceeded %.3f (iteration %d) in %d evaluations",
                self.metric,
                self.best,
                self.best_iteration,
                self.patience,
            )
        return stop

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_iteration": self.best_iteration,
            "without_improvement": self.without_improvement,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
        self.best_iteration = state["best_iteration"]
        self.without_improvement = state["without_improvement"]


class ValidationLoss(HookBase):
    """Log the losses on the images of a loader as ``val_…`` every ``period`` iterations.

    Args:
        period: iterations between two measurements; 0 measures at the end only.
        model: model without a wrapper for distributed training.
        loader: batches with ground truth.
    """

    def __init__(self, period: int, model: FCOS, loader: Iterable):
        self.period, self.model, self.loader = period, model, loader

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0):
            losses = validation_losses(self.model, self.loader)
            self.trainer.storage.put_scalars(
                **{f"val_{name}": value for name, value in losses.items()}, smoothing_hint=False
            )


@torch.no_grad()
def validation_losses(model: FCOS, loader: Iterable) -> dict[str, float]:
    """Mean losses over a loader's batches and all processes, and their sum as ``total_loss``.

    The model computes in evaluation mode; nothing in it changes.
    """
    sums: dict[str, float] = {}
    count = 0
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in loader:
            for name, value in model.losses(batch, sync=False).items():
                sums[name] = sums.get(name, 0.0) + value.item()
            count += 1
    finally:
        for module, mode in modes:
            module.training = mode
    parts = comm.all_gather((sums, count))
    total = max(sum(n for _, n in parts), 1)
    names = {name for part, _ in parts for name in part}
    means = {name: sum(part.get(name, 0.0) for part, _ in parts) / total for name in sorted(names)}
    return {**means, "total_loss": sum(means.values())}
