"""Keeping the best checkpoint, stopping when nothing improves, and the loss on unseen images."""

import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm

from ..modeling.fcos import FCOS

__all__ = ["BestCheckpoint", "TrainingEnd", "ValidationLoss", "validation_losses"]

logger = logging.getLogger(__name__)


class TrainingEnd(BaseException):  # detectron2 logs every Exception as a failure
    """Raised by a hook to end training early, in good order."""


class BestCheckpoint(HookBase):
    """Saves ``model_best`` whenever a metric improves; ends training when it no longer does.

    Args:
        period: iterations between evaluations.
        metric: logged name, such as "bbox/AP"; higher is better.
        save: called with the iteration when there is a new best.
        patience: evaluations without a new best after which training ends; 0 never.
    """

    def __init__(self, period: int, metric: str, save: Callable[[int], None], patience: int = 0):
        self.period, self.metric, self.save, self.patience = period, metric, save, patience
        self.best = -math.inf
        self.best_iteration = -1
        self.without_improvement = 0

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._judge()
            if self._shared_decision():
                raise TrainingEnd

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:
            self._judge()

    def _judge(self) -> None:
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
            self.save(iteration)
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
    """Logs the losses on other images as ``val_…`` every so many iterations.

    Args:
        period: iterations.
        model: the model.
        loader: gives batches with ground truth, once over.
    """

    def __init__(self, period: int, model: FCOS, loader: Iterable):
        self.period, self.model, self.loader = period, model, loader

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self.period > 0 and done % self.period == 0):
            losses = validation_losses(self.model, self.loader)
            self.trainer.storage.put_scalars(
                **{f"val_{name}": value for name, value in losses.items()},
                smoothing_hint=False,
            )


@torch.no_grad()
def validation_losses(model: FCOS, loader: Iterable) -> dict[str, float]:
    """Mean losses over a loader's batches and all processes, and their sum.

    Nothing in the model changes; see ``FCOS.measuring``.
    """
    sums: dict[str, float] = {}
    count = 0
    with model.measuring():
        for batch in loader:
            for name, value in model(batch).items():
                sums[name] = sums.get(name, 0.0) + value.item()
            count += 1
    parts = comm.all_gather((sums, count))
    total = max(sum(n for _, n in parts), 1)
    names = {name for part, _ in parts for name in part}
    means = {name: sum(part.get(name, 0.0) for part, _ in parts) / total for name in sorted(names)}
    return {**means, "total_loss": sum(means.values())}
