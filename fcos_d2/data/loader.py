"""Training batches as a pure function of seed and iteration, so that a resumed run repeats them."""

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import (
    DatasetCatalog,
    DatasetFromList,
    MetadataCatalog,
    get_detection_dataset_dicts,
)
from detectron2.data.samplers import (
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset

__all__ = ["TrainLoader", "build_sampler", "load_records", "plan_batches", "training_records"]

logger = logging.getLogger(__name__)

# What detectron2 and pycocotools raise for files that are not what they should be.
_DAMAGED = (
    KeyError,
    TypeError,
    ValueError,
    AssertionError,
    IndexError,
    AttributeError,
    OverflowError,
)

# A sample: its position in the stream of this process, and the index of its record.
Sample = tuple[int, int]


def training_records(cfg) -> list[dict]:
    """Records of DATASETS.TRAIN, filtered as detectron2 does.

    Raises:
        ValueError: naming the data set, if its annotations are damaged or nothing is left.
    """
    return load_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)


def load_records(names: Sequence[str], filter_empty: bool = False) -> list[dict]:
    """Records of registered data sets.

    Raises:
        ValueError: naming the data set, if its annotations are damaged or none is left.
    """
    try:
        return get_detection_dataset_dicts(list(names), filter_empty=filter_empty)
    except _DAMAGED as error:
        _name_the_damaged(names)
        raise ValueError(
            f"the data sets {', '.join(names)} cannot be used: {error!s:.300}. If no picture has "
            "objects, set DATALOADER.FILTER_EMPTY_ANNOTATIONS False"
        ) from error


def _name_the_damaged(names: Sequence[str]) -> None:
    for name in names:
        try:
            records = DatasetCatalog.get(name)
        except _DAMAGED as error:
            where = MetadataCatalog.get(name).get("json_file", name)
            reason = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise ValueError(
                f"the annotations of {name} ({where}) cannot be read: {reason!s:.300}. "
                "`fcos-d2 check-data` lists what is wrong with them"
            ) from error
        if not records:
            raise ValueError(f"the data set {name} has no images")


def build_sampler(cfg, records: Sequence[dict], seed: int) -> Iterable[int]:
    """detectron2's endless sampler of DATALOADER.SAMPLER_TRAIN, for this process.

    Raises:
        ValueError: for another name.
    """
    loader = cfg.DATALOADER
    if loader.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if loader.SAMPLER_TRAIN == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, loader.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    if loader.SAMPLER_TRAIN == "RandomSubsetTrainingSampler":
        ratio = loader.RANDOM_SUBSET_RATIO
        return RandomSubsetTrainingSampler(len(records), ratio, seed_shuffle=seed, seed_subset=seed)
    raise ValueError(
        f"DATALOADER.SAMPLER_TRAIN is {loader.SAMPLER_TRAIN!r}, expected TrainingSampler, "
        "RepeatFactorTrainingSampler or RandomSubsetTrainingSampler"
    )


def plan_batches(
    indices: Iterable[int], batch_size: int, groups: Sequence[Any] | None = None
) -> Iterator[list[Sample]]:
    """Cut an endless stream of indices into batches.

    Args:
        indices: of records.
        batch_size: of this process.
        groups: for each record what those of one batch must share, such as landscape or portrait.
    """
    waiting: dict[Any, list[Sample]] = {}
    for position, index in enumerate(indices):
        group = None if groups is None else groups[index]
        batch = waiting.setdefault(group, [])
        batch.append((position, index))
        if len(batch) == batch_size:
            yield batch
            waiting[group] = []


class TrainLoader:
    """Endless training batches: lists of mapped records.

    Which records a batch holds and how they are augmented depends on ``seed``, the process and the
    number of the batch alone, not on workers, nor on what ran before.

    Args:
        records: of the data set.
        mapper: record -> model input.
        make_sampler: seed -> endless indices of this process.
        batch_size: of this process.
        seed: may be changed before the first batch is drawn.
        group_by_aspect: put portrait and landscape images into separate batches.
        num_workers: processes that load; 0 loads in this one.
        skip_broken: replace a record whose image cannot be read by another one.

    Attributes:
        start: number of the batch to begin with.
    """

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Callable[[dict], dict],
        make_sampler: Callable[[int], Iterable[int]],
        *,
        batch_size: int,
        seed: int,
        group_by_aspect: bool = True,
        num_workers: int = 0,
        skip_broken: bool = False,
    ):
        self.start = 0
        self.seed = seed
        self._make_sampler = make_sampler
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._skip_broken = skip_broken
        self._mapper = mapper
        self._records = DatasetFromList(list(records), copy=False)
        self._groups = [r["width"] > r["height"] for r in records] if group_by_aspect else None

    def __iter__(self) -> Iterator[list[dict]]:
        plan = plan_batches(self._make_sampler(self.seed), self._batch_size, self._groups)
        dataset = _SeededDataset(self._records, self._mapper, self.seed, self._skip_broken)
        return iter(
            DataLoader(
                dataset,
                batch_sampler=itertools.islice(plan, self.start, None),
                num_workers=self._num_workers,
                collate_fn=list,
                persistent_workers=self._num_workers > 0,
                generator=torch.Generator().manual_seed(self.seed),  # leaves the global one alone
            )
        )


class _SeededDataset(Dataset):
    """Records mapped with random numbers that depend on their position only."""

    def __init__(self, records, mapper, seed: int, skip_broken: bool):
        self.records, self.mapper, self.seed = records, mapper, seed
        # Read here: processes that load are no members of the group.
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        self.skip_broken = skip_broken

    def __getitem__(self, sample: Sample) -> dict:
        position, index = sample
        # Other loaders of this process keep their numbers: augmentations draw from global ones.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            self._seed(position)
            return self._mapped(index)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def _seed(self, position: int) -> None:
        # Samplers deal one stream out to all processes: the number of processes changes nothing.
        number = position * self.world_size + self.rank
        words = np.random.SeedSequence((self.seed, number)).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.random.default_generator.manual_seed(int(words[2]))

    def _mapped(self, index: int) -> dict:
        for _ in range(100):
            try:
                return self.mapper(self.records[index])
            except (OSError, ValueError) as error:
                if not self.skip_broken:
                    raise
                logger.warning("Skipped: %s", error)
                index = np.random.randint(len(self.records))
        raise ValueError("a hundred images in a row could not be read; see the log")
