"""Start of one process per GPU, or of several on the CPU."""

import gc
import os
from collections.abc import Callable

import torch
from detectron2.engine import launch as detectron2_launch
from detectron2.utils import comm

__all__ = ["launch"]


def launch(main: Callable, args) -> None:
    """Run ``main(args)`` in ``args.num_gpus`` processes on each of ``args.num_machines``.

    Without CUDA the processes share the CPU's cores and talk through gloo. Started by ``torchrun``
    (or a Slurm script that sets its variables), this process joins that group instead.

    Raises:
        ValueError: if more GPUs are asked for than there are.
    """
    if all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")):
        _join_group()
        main(args)
        _leave_group()
        return
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


def _join_group() -> None:
    has_gpu = torch.cuda.is_available()
    local_rank = int(os.environ["LOCAL_RANK"])
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    if has_gpu:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
    store, rank, world_size = next(torch.distributed.rendezvous("env://"))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":
        # After a restart torch 2.11 meets the addresses of dead processes in the same store.
        life = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = torch.distributed.PrefixStore(f"life_{life}", store)
    torch.distributed.init_process_group(
        "nccl" if has_gpu else "gloo", store=store, rank=rank, world_size=world_size
    )
    comm.create_local_process_group(local_size)
    comm.synchronize()


def _worker(main: Callable, args) -> None:
    if args.num_gpus > 1 and not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // args.num_gpus))
    main(args)
    if args.num_gpus * args.num_machines > 1:  # then detectron2 made a group
        _leave_group()


def _leave_group() -> None:
    """Destroy the process group; a thread that outlives the interpreter would abort a good run."""
    torch.distributed.destroy_process_group()
    # Its threads live as long as detectron2's caches or a wrapped model refer to the group.
    comm._LOCAL_PROCESS_GROUP = None
    for cached in (comm.create_local_process_group, comm._get_global_gloo_group):
        cached.cache_clear()
    gc.collect()
