"""Starting one process per GPU, or several on the CPU."""

import os
from collections.abc import Callable

import torch
from detectron2.engine import launch as detectron2_launch

__all__ = ["launch"]


def launch(main: Callable, args) -> None:
    """Run ``main(args)`` in ``args.num_gpus`` processes on each of ``args.num_machines``.

    Without CUDA the processes share the CPU's cores and talk through gloo.

    Raises:
        ValueError: if more GPUs are asked for than there are.
    """
    present = torch.cuda.device_count()
    if 0 < present < args.num_gpus:
        raise ValueError(f"--num-gpus {args.num_gpus}, but this machine has {present}")
    detectron2_launch(
        _worker,
        args.num_gpus,
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(main, args),
    )


def _worker(main: Callable, args) -> None:
    if args.num_gpus > 1 and not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.num_gpus))
    main(args)
