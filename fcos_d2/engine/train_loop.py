"""One training step: accumulation, mixed precision, clipping, a stop at non-finite losses."""

import contextlib
import itertools
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ..utils.device import HostCopy

__all__ = ["PRECISIONS", "TrainStep", "split_batch"]

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainStep(SimpleTrainer):
    """detectron2's ``SimpleTrainer`` with what a long run on real data needs.

    Args:
        model, data_loader, optimizer: as there.
        seed: random numbers inside the model depend on it, the iteration and the process alone.
        accumulate: parts of a batch that go through the model one after another. The step equals
            that of the whole batch, but for statistics of batch norms.
        precision: "float16", "bfloat16", or ``None`` for float32.
        clip_norm: largest norm of all gradients together; 0 does not clip.

    Raises:
        ValueError: for an unknown precision, or float16 without CUDA.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        *,
        seed: int,
        accumulate: int = 1,
        precision: str | None = None,
        clip_norm: float = 0.0,
    ):
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.plain_model = model.module if isinstance(model, DistributedDataParallel) else model
        device = self.plain_model.device.type
        if precision is not None and precision not in PRECISIONS:
            raise ValueError(
                f"SOLVER.AMP.DTYPE is {precision!r}, expected one of {', '.join(PRECISIONS)}"
            )
        if precision == "float16" and device == "cpu":
            raise ValueError(
                "SOLVER.AMP.DTYPE float16 needs CUDA; on the CPU set it to bfloat16 or "
                "SOLVER.AMP.ENABLED False"
            )
        self._autocast = contextlib.nullcontext
        if precision is not None:
            self._autocast = lambda: torch.autocast(device, PRECISIONS[precision])
        self.grad_scaler = torch.amp.GradScaler(device, enabled=precision == "float16")

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        seed_step(self.seed, self.iter)
        self.optimizer.zero_grad()
        losses = self._forward_backward(data)
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        if self.clip_norm > 0:
            parameters = (p for g in self.optimizer.param_groups for p in g["params"])
            torch.nn.utils.clip_grad_norm_(list(parameters), self.clip_norm)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self._write_metrics(losses, data_time)

    def _forward_backward(self, data: Sequence[dict]) -> dict[str, Tensor]:
        """Gradients of the whole batch; returns its losses, on the host."""
        parts = split_batch(data, self.accumulate)
        one_step = self.plain_model.one_step(data) if len(parts) > 1 else contextlib.nullcontext()
        copies = []
        with one_step:
            for i, part in enumerate(parts):
                is_last = i == len(parts) - 1
                with self._no_sync(not is_last):
                    with self._autocast():
                        losses = self.model(part)
                    copies.append(HostCopy(self._with_state(losses)))
                    self.grad_scaler.scale(sum(losses.values())).backward()
        # A GPU is in the backward pass by now, and has enough to do while this waits for losses.
        total: dict[str, Tensor] = {}
        for copy, part in zip(copies, parts, strict=True):
            *values, bad = copy.get()
            if bad:
                self._stop(dict(zip(losses, values)), part)
            for name, value in zip(losses, values, strict=True):
                total[name] = total.get(name, 0) + value
        return total

    def _no_sync(self, on: bool):
        if on and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _with_state(self, losses: dict[str, Tensor]) -> Tensor:
        """All losses, and whether the sum of them is no number in any process."""
        values = torch.stack([value.detach() for value in losses.values()])
        bad = (~torch.isfinite(values.sum())).to(values.dtype)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(bad)
        return torch.cat((values, bad[None]))

    def _stop(self, losses: dict[str, Tensor], data: Sequence[dict]) -> NoReturn:
        """Every process stops with the same message."""
        reports = comm.all_gather(_describe(losses, data))
        rates = sorted({group["lr"] for group in self.optimizer.param_groups}, reverse=True)
        raise FloatingPointError(
            f"loss is not finite at iteration {self.iter}, learning rate "
            f"{', '.join(f'{r:.3g}' for r in rates)}.\n"
            + "\n".join(f"process {i}: {text}" for i, text in enumerate(reports))
            + "\nTry a lower SOLVER.BASE_LR, more SOLVER.WARMUP_ITERS or SOLVER.CLIP_GRADIENTS; "
            "the last checkpoint is from before this"
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        scaler = state_dict.get("grad_scaler")
        if scaler and self.grad_scaler.is_enabled():
            self.grad_scaler.load_state_dict(scaler)


def split_batch(data: Sequence, parts: int) -> list[Sequence]:
    """Cut a batch into so many parts, as equal as can be; fewer if it is smaller."""
    parts = min(parts, len(data))
    edges = [len(data) * i // parts for i in range(parts + 1)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def seed_step(seed: int, iteration: int) -> None:
    """Random numbers of a step, such as dropout's, for this process."""
    torch.manual_seed((seed * 1_000_003 + iteration) * 1009 + comm.get_rank())


def _describe(losses: dict[str, Tensor], data: Sequence[dict]) -> str:
    sides = [
        float((x["instances"].gt_boxes.tensor[:, 2:] - x["instances"].gt_boxes.tensor[:, :2]).max())
        for x in data
        if len(x["instances"])
    ]
    values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
    names = ", ".join(str(x.get("file_name", "?")) for x in data)
    return f"{values}; longest box side {max(sides, default=0):.4g}; images {names}"
