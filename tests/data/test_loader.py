"""Batches are a function of seed and number, whatever loads them and wherever it begins."""

import random

import numpy as np
import pytest
import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler

import fcos_d2
from fcos_d2.data.loader import TrainLoader, build_sampler, plan_batches

RECORDS = [{"id": i, "width": 2 if i % 3 else 1, "height": 1 + i % 2} for i in range(10)]


def mapped(record):
    if record.get("broken"):
        raise ValueError(f"image {record['id']} cannot be read")
    noise = random.random(), float(np.random.rand()), float(torch.rand(()))
    return {"id": record["id"], "noise": noise}


def loader(records=RECORDS, **options):
    options = {"batch_size": 2, "seed": 5, **options}
    return TrainLoader(records, mapped, lambda s: TrainingSampler(len(records), seed=s), **options)


def take(batches, count):
    return [batch for batch, _ in zip(batches, range(count), strict=False)]


def test_a_later_start_continues_the_same_stream():
    whole = take(loader(), 12)
    later = loader()
    later.start = 7
    assert take(later, 5) == whole[7:]


@pytest.mark.parametrize("num_workers", [1, 3])
def test_workers_change_nothing(num_workers):
    assert take(loader(num_workers=num_workers), 8) == take(loader(), 8)


def test_seeds_differ_and_augmentation_differs_between_epochs():
    assert take(loader(seed=6), 4) != take(loader(), 4)
    noise = {}
    for batch in take(loader(), 15):
        for item in batch:
            noise.setdefault(item["id"], []).append(item["noise"])
    assert all(len(set(values)) == len(values) for values in noise.values())


def test_loading_leaves_global_random_numbers_alone():
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    take(loader(), 3)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_batches_hold_one_orientation():
    for batch in take(loader(), 12):
        assert (
            len({RECORDS[item["id"]]["width"] > RECORDS[item["id"]]["height"] for item in batch})
            == 1
        )


def test_planning_loses_no_sample():
    plan = plan_batches(iter(range(9)), 2, groups=[0, 1, 0, 0, 1, 0, 0, 0, 1])
    assert list(plan) == [
        [(0, 0), (2, 2)],
        [(1, 1), (4, 4)],
        [(3, 3), (5, 5)],
        [(6, 6), (7, 7)],
    ]


def test_a_broken_image_stops_unless_asked_to_be_skipped(caplog):
    records = [{**r, "broken": r["id"] == 4} for r in RECORDS]
    with pytest.raises(ValueError, match="image 4 cannot be read"):
        take(loader(records), 12)
    batches = take(loader(records, skip_broken=True), 12)
    assert all(len(batch) == 2 for batch in batches) and "Skipped: image 4" in caplog.text
    assert batches == take(loader(records, skip_broken=True), 12)


def test_samplers_by_name():
    cfg = fcos_d2.get_cfg()
    records = [{**r, "annotations": [{"category_id": r["id"] % 2}]} for r in RECORDS]
    assert isinstance(build_sampler(cfg, records, 1), TrainingSampler)
    cfg.DATALOADER.SAMPLER_TRAIN = "RepeatFactorTrainingSampler"
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.1
    assert isinstance(build_sampler(cfg, records, 1), RepeatFactorTrainingSampler)
    cfg.DATALOADER.SAMPLER_TRAIN = "Other"
    with pytest.raises(ValueError, match="'Other', expected TrainingSampler"):
        build_sampler(cfg, records, 1)
