"""One training step: accumulation, mixed precision, clipping, and a stop at non-finite losses."""

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

from ..utils.device import HostCopy, autocast, check_precision

__all__ = ["TrainStep", "split_batch"]


class TrainStep(SimpleTrainer):
    """detectron2's ``SimpleTrainer`` for long runs on real data.

    Args:
        model, data_loader, optimizer: see ``SimpleTrainer``.
        seed: seeds the model's random numbers together with iteration and rank.
        accumulate: number of micro-batches of a batch, which go through the model one after
            another. The step equals that of the whole batch, except for batch-norm statistics.
        precision: precision of autocast; see ``parse_precision``.
        clip_norm: largest norm of all gradients together; 0 does not clip.

    Raises:
        ValueError: for an unknown precision, or fp16 without a GPU.
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        *,
        seed: int,
        accumulate: int = 1,
        precision: str = "fp32",
        clip_norm: float = 0.0,
    ):
        super().__init__(model, data_loader, optimizer)
        self.seed = seed
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.plain_model = model.module if isinstance(model, DistributedDataParallel) else model
        device = self.plain_model.device
        self.precision = check_precision(precision, device, "SOLVER.AMP.DTYPE")
        self.grad_scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        # Random numbers inside the model, such as those of dropout, depend on these three only.
        torch.manual_seed((self.seed * 1_000_003 + self.iter) * 1009 + comm.get_rank())
        self.optimizer.zero_grad()
        losses = self.forward_backward(data)
        self.after_backward()
        self.grad_scaler.unscale_(self.optimizer)
        if self.clip_norm > 0:
            parameters = (p for g in self.optimizer.param_groups for p in g["params"])
            torch.nn.utils.clip_grad_norm_(list(parameters), self.clip_norm)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        self._write_metrics(losses, data_time)

    def forward_backward(self, data: Sequence[dict]) -> dict[str, Tensor]:
        """Compute the gradients of the whole batch; return its losses, on the host."""
        micro_batches = split_batch(data, self.accumulate)
        # A whole batch computes its normalizers itself.
        shared = (self.plain_model.normalizers(data),) if len(micro_batches) > 1 else ()
        copies = []
        for i, micro_batch in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            syncs = is_last or not isinstance(self.model, DistributedDataParallel)
            with contextlib.nullcontext() if syncs else self.model.no_sync():
                with autocast(self.precision, self.plain_model.device):
                    losses = self.model(micro_batch, *shared)
                copies.append(HostCopy(self._with_state(losses)))
                self.grad_scaler.scale(sum(losses.values())).backward()
        # The copies are read only now, while a GPU still works on the backward pass.
        total: dict[str, Tensor] = {}
        for copy, micro_batch in zip(copies, micro_batches, strict=True):
            *values, is_bad = copy.get()
            if is_bad:
                self._stop(dict(zip(losses, values)), micro_batch)
            for name, value in zip(losses, values, strict=True):
                total[name] = total.get(name, 0) + value
        return total

    def _with_state(self, losses: dict[str, Tensor]) -> Tensor:
        """All losses, then the number of processes whose losses are not finite."""
        values = torch.stack([value.detach() for value in losses.values()])
        is_bad = (~torch.isfinite(values.sum())).to(values.dtype)
        if comm.get_world_size() > 1:
            torch.distributed.all_reduce(is_bad)
        return torch.cat((values, is_bad[None]))

    def _stop(self, losses: dict[str, Tensor], data: Sequence[dict]) -> NoReturn:
        """Stop every process with the same message."""
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
    """Cut a batch into ``parts`` micro-batches of nearly equal size; fewer if it is smaller."""
    parts = min(parts, len(data))
    edges = [len(data) * i // parts for i in range(parts + 1)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def _describe(losses: dict[str, Tensor], data: Sequence[dict]) -> str:
    boxes = torch.cat([x["instances"].gt_boxes.tensor for x in data])
    longest = (boxes[:, 2:] - boxes[:, :2]).max().item() if len(boxes) else 0
    values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
    names = ", ".join(str(x.get("file_name", "?")) for x in data)
    return f"{values}; longest box side {longest:.4g}; images {names}"
