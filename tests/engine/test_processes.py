"""Several processes on the CPU do what one does."""

import copy
import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.inputs import ground_truth
from support.models import tiny_fcos
from support.tiny import tiny_overrides, write_coco

from fcos_d2.engine import main as engine


def batch():
    """Two images; the first has many small boxes, the second one big box."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 256, 320), dtype=torch.uint8, generator=generator)
    small = torch.tensor([[x, y, x + 40.0, y + 30.0] for x in (10, 90, 200) for y in (20, 120)])
    truths = [ground_truth(small, range(6)), ground_truth([[20, 30, 300, 220]], [2])]
    return [{"image": i, "instances": t} for i, t in zip(images, truths)]


def gradients(model, inputs):
    model.zero_grad()
    sum(model(inputs).values()).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def model_of(options, dtype):
    torch.manual_seed(1)
    return tiny_fcos(**options).to(dtype)


def in_two_processes(function, *args):
    """Run ``function(rank, *args)`` in two new processes, forked from one that imported torch."""
    multiprocessing.set_forkserver_preload(["fcos_d2.engine.main"])
    mp.start_processes(function, args=args, nprocs=2, start_method="forkserver")


def worker(rank, folder, options, dtype, order):
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, world_size=2, rank=rank)
    model = torch.nn.parallel.DistributedDataParallel(model_of(options, dtype))
    found = gradients(model, [batch()[order[rank]]])
    if rank == 0:
        torch.save({k.removeprefix("module."): v for k, v in found.items()}, f"{folder}/out.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "dtype", "order"),
    [
        ({}, torch.float64, (0, 1)),
        ({}, torch.float32, (1, 0)),
        ({"box_quality": "iou", "cls_loss_normalizer": "all"}, torch.float64, (0, 1)),
    ],
)
def test_two_processes_give_the_gradients_of_one(tmp_path, options, dtype, order):
    alone = gradients(model_of(options, dtype), batch())
    in_two_processes(worker, str(tmp_path), options, dtype, order)
    together = torch.load(tmp_path / "out.pth", weights_only=True)
    assert alone.keys() == together.keys()
    difference = torch.cat([(together[k] - alone[k]).flatten() for k in alone])
    assert difference.norm() < 1e-5 * torch.cat([g.flatten() for g in alone.values()]).norm()
    if dtype == torch.float64:  # in float32, sums that nearly cancel are only good to 1e-4
        # A bias in front of a norm of one channel has no gradient but rounding.
        rounding = 1e-15 * max(g.abs().max() for g in alone.values())
        for name, expected in alone.items():
            error = (together[name] - expected).abs().max()
            assert error <= max(1e-5 * expected.abs().max(), rounding), name


def train_worker(rank, folder, overrides):
    from detectron2.data.datasets import register_coco_instances
    from detectron2.utils import comm

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", world_size=2, rank=rank)
    comm.create_local_process_group(2)
    register_coco_instances("half_empty", {}, f"{folder}/d/data.json", f"{folder}/d/images")
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml", "--skip-test", *overrides]
    trainer = engine.make_trainer(engine.make_parser().parse_args(words))
    trainer.train()
    torch.save(copy.deepcopy(trainer.model.module.state_dict()), f"{folder}/rank{rank}.pth")
    dist.destroy_process_group()


def test_a_process_without_boxes_hangs_nothing_and_weights_stay_equal(tmp_path):
    write_coco(tmp_path / "d", num_images=2, empty=(1,))
    options = {
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
        "SOLVER.MAX_ITER": 8,
    }
    overrides = tiny_overrides(tmp_path / "output", "half_empty", **options)
    in_two_processes(train_worker, str(tmp_path), overrides)
    first, second = (torch.load(tmp_path / f"rank{i}.pth", weights_only=True) for i in (0, 1))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert os.path.exists(tmp_path / "output" / "model_final.pth")
