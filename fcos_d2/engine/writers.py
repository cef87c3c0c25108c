"""Writers of training metrics besides detectron2's metrics.json, TensorBoard and log."""

import logging

from detectron2.utils.events import EventWriter, get_event_storage

__all__ = ["DataTimeWarning", "ProgressBar", "WandbWriter"]

logger = logging.getLogger(__name__)


class ProgressBar(EventWriter):
    """Progress bar from ``start_iter`` to ``max_iter`` with the loss, for terminals."""

    def __init__(self, max_iter: int, start_iter: int):
        from tqdm import tqdm

        self._bar = tqdm(total=max_iter, initial=start_iter, desc="training", unit="it")

    def write(self) -> None:
        storage = get_event_storage()
        loss = storage.latest().get("total_loss")
        if loss is not None:
            self._bar.set_postfix(loss=f"{loss[0]:.3f}", refresh=False)
        self._bar.update(min(storage.iter + 1, self._bar.total) - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class DataTimeWarning(EventWriter):
    """Warn once if training spends more than 30 % of its time waiting for data.

    Args:
        start_iter: first iteration of the training.
        after: number of iterations measured.
    """

    def __init__(self, start_iter: int = 0, after: int = 100):
        self._due: float = start_iter + after
        self._after = after

    def write(self) -> None:
        storage = get_event_storage()
        names = storage.histories()
        if storage.iter < self._due or "time" not in names or "data_time" not in names:
            return
        self._due = float("inf")
        total = max(names["time"].median(self._after), 1e-9)
        waiting = names["data_time"].median(self._after) / total
        if waiting > 0.3:
            logger.warning(
                "%.0f %% of the time goes into waiting for data: more DATALOADER.NUM_WORKERS, a "
                "faster disk, or smaller images on disk would speed training up",
                100 * waiting,
            )


class WandbWriter(EventWriter):
    """Send the config and every scalar to SOLVER.WANDB_PROJECT at Weights & Biases.

    Raises:
        ImportError: if wandb is not installed.
    """

    def __init__(self, cfg):
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                "SOLVER.WANDB_PROJECT is set, but wandb is not installed: pip install wandb"
            ) from error
        self._run = wandb.init(
            project=cfg.SOLVER.WANDB_PROJECT, dir=cfg.OUTPUT_DIR, config={"config": cfg.dump()}
        )
        self._last = -1

    def write(self) -> None:
        storage = get_event_storage()
        rows: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in storage.latest().items():
            if iteration > self._last:
                rows.setdefault(iteration, {})[name] = value
        for iteration in sorted(rows):
            self._run.log(rows[iteration], step=iteration)
        self._last = max([self._last, *rows])

    def close(self) -> None:
        self._run.finish()
