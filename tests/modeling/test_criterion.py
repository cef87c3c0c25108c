"""Assigner, losses and normalizers as exchangeable parts."""

import pytest
import torch
from support.inputs import ground_truth
from support.models import STRIDES, GivenDistances, level_shapes, maps
from support.parts import as_truth

from fcos_d2.modeling.assigners import Assignment, CenterAssigner
from fcos_d2.modeling.build import make_criterion
from fcos_d2.modeling.criterion import FCOSCriterion
from fcos_d2.modeling.head import Predictions
from fcos_d2.modeling.locations import make_locations, size_ranges
from fcos_d2.modeling.losses import sigmoid_focal_loss

LOCATIONS = make_locations(level_shapes(128, 128), STRIDES)
TRUTH = as_truth([ground_truth([[10, 10, 90, 90]], [1]), ground_truth([], [])])


def random_predictions(seed=0, classes=3):
    generator = torch.Generator().manual_seed(seed)
    count = len(LOCATIONS.points)
    logits = torch.randn(2, count, classes, generator=generator)
    distances = torch.rand(2, count, 4, generator=generator) * 5
    quality = torch.randn(2, count, generator=generator)
    return Predictions(*(maps(x, LOCATIONS) for x in (logits, distances, quality)), LOCATIONS)


def test_an_assigner_with_scores_hands_them_to_the_class_loss():
    """The seam for soft targets: predictions in, scores out, in the order of the pairs."""
    seen = []

    def assigner(locations, truth, predictions):
        assert predictions is not None
        hard = CenterAssigner(size_ranges((64, 128, 256, 512), 5))(locations, truth)
        score = torch.linspace(0, 1, len(hard.positive))
        fields = vars(hard) | {"score": score}
        return Assignment(**fields)

    def class_loss(level, positive_index, labels, score):
        seen.append((positive_index, labels, score))
        return (level.flatten()[:1] * 0 + score.sum()).sum()

    criterion = FCOSCriterion(
        assigner=assigner, box_coder=GivenDistances(True), class_loss=class_loss
    )
    predictions = random_predictions()
    targets = criterion.targets(LOCATIONS, TRUTH, predictions)
    losses = criterion(predictions, targets, criterion.normalizers(targets))
    assert len(seen) == 5
    scores = torch.cat([score for *_, score in seen])
    assert torch.equal(scores, targets.assignment.score) and len(scores) > 5
    expected = scores.sum() / targets.assignment.positive.sum()
    assert losses["loss_fcos_cls"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_focal_loss_refuses_soft_targets():
    with pytest.raises(ValueError, match="no soft targets"):
        index = torch.zeros(1, dtype=torch.int64)
        sigmoid_focal_loss(torch.zeros(1, 1, 1, 1), index, index, torch.ones(1))


@pytest.mark.parametrize("kind", ["fg", "moving_fg", "all"])
def test_normalizers_without_sync_change_nothing(kind):
    criterion = make_criterion(5, GivenDistances(True), cls_loss_normalizer=kind)
    targets = criterion.targets(LOCATIONS, TRUTH)
    average = torch.tensor(100.0)
    normalizers = criterion.normalizers(targets, average, sync=False)
    assert average == 100
    expected = {"fg": normalizers.num_positive, "moving_fg": 100, "all": targets.num_locations}
    assert normalizers.cls == expected[kind]
    criterion.normalizers(targets, average)
    assert (average != 100) == (kind == "moving_fg")


def test_losses_scale_with_their_normalizers():
    from dataclasses import replace

    criterion, predictions = make_criterion(5, GivenDistances(True)), random_predictions()
    targets = criterion.targets(LOCATIONS, TRUTH, predictions)
    normalizers = criterion.normalizers(targets)
    once = criterion(predictions, targets, normalizers)
    twice = criterion(predictions, targets, replace(normalizers, cls=normalizers.cls * 2))
    assert twice["loss_fcos_cls"].item() == pytest.approx(once["loss_fcos_cls"].item() / 2)
    assert twice["loss_fcos_loc"] == once["loss_fcos_loc"]
