"""Training batches as a pure function of seed and iteration: a resumed run repeats them."""

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

# Exceptions that detectron2 and pycocotools raise for malformed annotation files.
_DAMAGED = (
    KeyError,
    TypeError,
    ValueError,
    AssertionError,
    IndexError,
    AttributeError,
    OverflowError,
)

# Position in the stream of this process, and index of the record.
Sample = tuple[int, int]


def training_records(cfg) -> list[dict]:
    """Records of DATASETS.TRAIN, filtered as detectron2 does.

    Raises:
        ValueError: if the annotations of a dataset are damaged, or no record is left; names the
            dataset.
    """
    return load_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)


def load_records(names: Sequence[str], filter_empty: bool = False) -> list[dict]:
    """Records of registered datasets, in detectron2's format.

    Raises:
        ValueError: if the annotations of a dataset are damaged, or no record is left; names the
            dataset.
    """
    try:
        return get_detection_dataset_dicts(list(names), filter_empty=filter_empty)
    except _DAMAGED as error:
        _raise_for_damaged(names)
        raise ValueError(
            f"the datasets {', '.join(names)} cannot be used: {error!s:.300}. If no image has "
            "objects, set DATALOADER.FILTER_EMPTY_ANNOTATIONS False"
        ) from error


def _raise_for_damaged(names: Sequence[str]) -> None:
    """Raise ValueError for the first dataset that cannot be loaded or is empty."""
    for name in names:
        try:
            records = DatasetCatalog.get(name)
        except _DAMAGED as error:
            json_file = MetadataCatalog.get(name).get("json_file", name)
            reason = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise ValueError(
                f"the annotations of {name} ({json_file}) cannot be read: {reason!s:.300}. "
                "`fcos-d2 check-data` lists the faults"
            ) from error
        if not records:
            raise ValueError(f"the dataset {name} has no images")


def build_sampler(cfg, records: Sequence[dict], seed: int) -> Iterable[int]:
    """Endless sampler of detectron2 for this process, chosen by DATALOADER.SAMPLER_TRAIN.

    Raises:
        ValueError: for an unknown name.
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
    """Cut a stream of record indices into batches.

    Args:
        indices: indices of records, usually endless.
        batch_size: number of samples in a batch of this process.
        groups: group of each record, such as landscape or portrait; the samples of a batch have
            the same group. None puts all records into one group.

    Yields:
        Batches of (position in the stream, index of the record).
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

    The records of a batch and their augmentation depend only on ``seed``, the process and the
    number of the batch. They do not depend on the workers or on earlier batches.

    Args:
        records: records of the dataset.
        mapper: function from a record to a model input.
        make_sampler: function from the seed to the endless indices of this process.
        batch_size: number of images in a batch of this process.
        seed: seed of sampling and augmentation; may be changed before the first batch is drawn.
        group_by_aspect: put portrait and landscape images into separate batches.
        num_workers: number of loading processes; 0 loads in this process.
        skip_broken: replace a record whose image cannot be read by a random other record.

    Attributes:
        start: number of the first batch.
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
                generator=torch.Generator().manual_seed(self.seed),  # keeps the global one as it is
            )
        )


class _SeededDataset(Dataset):
    """Records mapped with random numbers that depend only on the position in the stream."""

    def __init__(self, records, mapper, seed: int, skip_broken: bool):
        self.records, self.mapper, self.seed = records, mapper, seed
        # Read here: loading processes are not members of the process group.
        self.rank, self.world_size = comm.get_rank(), comm.get_world_size()
        self.skip_broken = skip_broken

    def __getitem__(self, sample: Sample) -> dict:
        position, index = sample
        # Augmentations draw from the global generators, which other code in this process uses too.
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        try:
            self._seed(position)
            return self._mapped(index)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def _seed(self, position: int) -> None:
        # All processes draw from one shuffled stream, so results do not depend on their number.
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
        raise ValueError("100 images in a row could not be read; see the log")
