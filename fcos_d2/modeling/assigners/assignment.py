"""The result of every assigner."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..ground_truth import GroundTruth
from ..head import Predictions
from ..locations import Locations

__all__ = ["Assigner", "Assignment"]


@dataclass(frozen=True)
class Assignment:
    """Candidate (location, box) pairs; ``positive`` marks the assigned ones.

    The number of pairs K may follow from shapes only, so that computing an assignment never
    synchronizes with a GPU. No location is positive for two boxes.

    Attributes:
        image_index: (K,) int64 index of the image.
        location_index: (K,) int64 index among the P locations; increases from level to level.
        box_index: (K,) int64 index among the boxes of all images.
        positive: (K,) bool, True where the location learns the box.
        level_sizes: number of pairs of each level; their sum is K.
        score: (K,) soft class target in [0, 1]; ``None`` means 1 for every positive pair.
    """

    image_index: Tensor
    location_index: Tensor
    box_index: Tensor
    positive: Tensor
    level_sizes: list[int]
    score: Tensor | None = None

    def compact(self) -> "Assignment":
        """Keep only the positive pairs; synchronizes with a GPU."""
        kept = self.positive.nonzero().squeeze(1)
        return Assignment(
            self.image_index[kept],
            self.location_index[kept],
            self.box_index[kept],
            self.positive[kept],
            [int(part.sum()) for part in self.positive.split(self.level_sizes)],
            None if self.score is None else self.score[kept],
        )

    def to_map(self, num_images: int, num_locations: int) -> Tensor:
        """(N, P) int64 index of the box that each location learns, -1 for background."""
        result = self.box_index.new_full((num_images * num_locations,), -1)
        assigned = torch.where(self.positive, self.box_index, -1)
        location = self.image_index * num_locations + self.location_index
        result.scatter_reduce_(0, location, assigned, "amax")
        return result.view(num_images, num_locations)


# Decides which locations learn which boxes. Rules that follow from geometry ignore the
# predictions, which are None where nothing was predicted yet.
Assigner = Callable[[Locations, GroundTruth, Predictions | None], Assignment]
