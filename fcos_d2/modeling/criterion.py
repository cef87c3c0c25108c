"""From predictions and ground truth to losses (FCOS papers, arXiv 1904.01355 and 2006.09214)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor

from .assigners import Assigner, Assignment
from .box_coder import BoxCoder, ltrb_distances
from .ground_truth import GroundTruth
from .head import Predictions, flatten_maps
from .locations import Locations
from .losses import centerness_targets, ltrb_iou_loss

__all__ = [
    "BOX_QUALITIES",
    "CLS_NORMALIZERS",
    "FCOSCriterion",
    "LossNormalizers",
    "Targets",
    "average_over_processes",
]

BOX_QUALITIES = ("ctrness", "iou")
CLS_NORMALIZERS = ("fg", "moving_fg", "all")
# Logit whose focal loss as background is zero in every dtype; marks ignored locations.
_IGNORE_LOGIT = -1e4

# (map, positive_index, labels, score) -> sum of the loss; see ``sigmoid_focal_loss``.
ClassLoss = Callable[..., Tensor]


@dataclass(frozen=True)
class LossNormalizers:
    """Divisors of the losses of one step, averaged over processes.

    The micro-batches of a step share them, and the padded size, so that their losses sum to the
    loss of the whole batch.

    Attributes:
        num_positive: divisor of the quality loss and of an unweighted box loss; at least 1.
        sum_centerness: divisor of a box loss weighted by centerness.
        cls: divisor of the class loss.
        padded_size: (height, width) of all images of the step; ``None`` pads each batch itself.
    """

    num_positive: Tensor
    sum_centerness: Tensor
    cls: Tensor
    padded_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Targets:
    """Targets of the K location-box pairs of an assignment.

    Attributes:
        assignment: the pairs.
        distances: (K, 4) ltrb distances in the unit of the box coder; 1 for negative pairs.
        centerness: (K,) in [0, 1]; 0 for negative pairs.
        classes: (K,) int64.
        ignore: (N, P) bool, True at background locations that are not learned, or ``None``.
        num_locations: N * P, locations of all images.
    """

    assignment: Assignment
    distances: Tensor
    centerness: Tensor
    classes: Tensor
    ignore: Tensor | None
    num_locations: int


@dataclass(frozen=True)
class FCOSCriterion:
    """Assigner, class loss, box loss and quality loss.

    Attributes:
        assigner: decides which locations learn which boxes.
        box_coder: representation of the boxes that the head predicts.
        class_loss: ``(map, positive_index, labels, score) -> sum``; see ``sigmoid_focal_loss``.
        loc_loss_type: "iou", "linear_iou" or "giou".
        box_quality: "ctrness" (centerness, which also weights the box loss) or "iou".
        cls_loss_weight: factor of the class loss.
        cls_normalizer: divisor of the class loss: "fg" (number of positives), "moving_fg" (its
            moving average) or "all" (number of locations).
        box_loss_smoothing: added to intersection and union in the box loss.
        weight_by_centerness: weight the box loss by centerness, with box_quality "ctrness".
    """

    assigner: Assigner
    box_coder: BoxCoder
    class_loss: ClassLoss
    loc_loss_type: str = "giou"
    box_quality: str = "ctrness"
    cls_loss_weight: float = 1.0
    cls_normalizer: str = "fg"
    box_loss_smoothing: float = 1.0
    weight_by_centerness: bool = True

    @torch.no_grad()
    def targets(
        self,
        locations: Locations,
        ground_truth: GroundTruth,
        predictions: Predictions | None = None,
    ) -> Targets:
        """Assign the locations of a batch and collect what they learn.

        Args:
            locations: P locations that the N images share.
            ground_truth: boxes and classes of the N images.
            predictions: for assigners that look at them.
        """
        assignment = self.assigner(locations, ground_truth, predictions)
        if assignment.positive.device.type == "cpu":  # there is no GPU to wait for
            assignment = assignment.compact()
        index, positive = assignment.location_index, assignment.positive
        distances = self.box_coder.encode(
            ground_truth.boxes[assignment.box_index],
            locations.points[index],
            locations.strides[index],
        ).where(positive[:, None], 1.0)
        return Targets(
            assignment=assignment,
            distances=distances,
            centerness=centerness_targets(distances) * positive,
            classes=ground_truth.classes[assignment.box_index],
            ignore=_ignored_locations(locations, ground_truth, assignment),
            num_locations=len(ground_truth.counts) * len(locations.points),
        )

    @torch.no_grad()
    def normalizers(
        self, targets: Targets, moving_num_fg: Tensor | None = None, *, sync: bool = True
    ) -> LossNormalizers:
        """Divisors of the losses of one step.

        Args:
            targets: targets of the whole step.
            moving_num_fg: scalar moving average of the number of positives, for "moving_fg".
            sync: average over processes and update ``moving_num_fg`` in place. False computes
                divisors of this process only and changes nothing, as validation needs them.
        """
        mean = average_over_processes if sync else lambda values: values
        positive, centerness = targets.assignment.positive, targets.centerness
        sums = mean(torch.stack((positive.sum().float(), centerness.sum())))
        num_positive = sums[0].clamp(min=1)
        if self.cls_normalizer == "moving_fg":
            assert moving_num_fg is not None
            if sync:
                moving_num_fg.mul_(0.9).add_(num_positive, alpha=0.1)
            cls = moving_num_fg.clone()  # the next step changes it, backward may come later
        elif self.cls_normalizer == "all":
            cls = mean(num_positive.new_full((), float(targets.num_locations)))
        else:
            cls = num_positive
        return LossNormalizers(num_positive, sums[1], cls)

    def __call__(
        self, predictions: Predictions, targets: Targets, normalizers: LossNormalizers
    ) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            predictions: predictions at the P locations of the N images.
            targets: their targets; see :meth:`targets`.
            normalizers: divisors; see :meth:`normalizers`.

        Returns:
            ``loss_fcos_cls``, ``loss_fcos_loc`` and ``loss_fcos_ctr`` or ``loss_fcos_iou``:
            float32 scalars, attached to every parameter of the head with or without boxes.
        """
        pairs = targets.assignment
        positive = pairs.positive
        raw = flatten_maps(predictions.boxes)[pairs.image_index, pairs.location_index]
        # Negative pairs get dummy finite values and therefore no gradient.
        distances = self.box_coder.distances(raw).where(positive[:, None], 1.0)
        quality_logits = flatten_maps(predictions.quality)[pairs.image_index, pairs.location_index]
        quality_logits = quality_logits[:, 0].float().where(positive, 0.0)

        box_losses, iou = ltrb_iou_loss(
            distances, targets.distances, self.loc_loss_type, self.box_loss_smoothing
        )
        uses_centerness = self.box_quality == "ctrness"
        if uses_centerness and self.weight_by_centerness:
            loss_loc = (box_losses * targets.centerness).sum()
            loss_loc = loss_loc / normalizers.sum_centerness.clamp(min=1e-6)
        else:
            loss_loc = (box_losses * positive).sum() / normalizers.num_positive
        loss_quality = F.binary_cross_entropy_with_logits(
            quality_logits,
            targets.centerness if uses_centerness else iou.detach(),
            weight=positive.float(),
            reduction="sum",
        )
        loss_cls = self._class_loss(predictions, targets) / normalizers.cls
        quality_name = "loss_fcos_ctr" if uses_centerness else "loss_fcos_iou"
        return {
            "loss_fcos_cls": loss_cls * self.cls_loss_weight,
            "loss_fcos_loc": loss_loc,
            quality_name: loss_quality / normalizers.num_positive,
        }

    def _class_loss(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Sum of the class loss over all levels."""
        pairs, sizes = targets.assignment, predictions.locations.level_sizes
        logits: Sequence[Tensor] = predictions.logits
        if targets.ignore is not None:
            logits = _mask_ignored(logits, targets.ignore, sizes)
        fields = (pairs.image_index, pairs.location_index, pairs.positive, targets.classes)
        by_level = zip(*(x.split(pairs.level_sizes) for x in fields))
        scores: Sequence[Tensor | None] = [None] * len(sizes)
        if pairs.score is not None:
            scores = pairs.score.split(pairs.level_sizes)
        losses, start = [], 0
        for level, size, score, (image, index, positive, labels) in zip(
            logits, sizes, scores, by_level, strict=True
        ):
            positive_index = torch.where(positive, image * size + index - start, -1)
            losses.append(self.class_loss(level, positive_index, labels, score))
            start += size
        return torch.stack(losses).sum()


def average_over_processes(values: Tensor) -> Tensor:
    """Mean of a tensor over all processes; the tensor itself with one process."""
    if comm.get_world_size() == 1:
        return values
    values = values.clone()
    torch.distributed.all_reduce(values)
    return values / comm.get_world_size()


def _ignored_locations(
    locations: Locations, ground_truth: GroundTruth, assignment: Assignment
) -> Tensor | None:
    """(N, P) bool, True at background locations strictly inside a box to ignore."""
    if ground_truth.ignore is None:
        return None
    ignored = torch.stack([_inside_any(locations.points, b) for b in ground_truth.ignore])
    return ignored & (assignment.to_map(*ignored.shape) < 0)


def _inside_any(points: Tensor, boxes: Tensor) -> Tensor:
    """(P,) bool, True where a point lies strictly inside one of (K, 4) boxes."""
    return (ltrb_distances(points[:, None], boxes[None]).amin(dim=2) > 0).any(dim=1)


def _mask_ignored(
    logits: Sequence[Tensor], ignore: Tensor, level_sizes: Sequence[int]
) -> list[Tensor]:
    """Logits without a loss at ignored locations."""
    masks = ignore.split(list(level_sizes), dim=1)
    return [
        level.masked_fill(mask.view(-1, 1, *level.shape[2:]), _IGNORE_LOGIT)
        for level, mask in zip(logits, masks, strict=True)
    ]
