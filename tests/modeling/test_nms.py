"""The kinds of non-maximum suppression, against slow and obvious ones."""

import math

import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from fcos_d2.modeling.nms import NMS_TYPES, apply_nms, soft_nms


def scene(count=60, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    size = torch.rand(count, 2, generator=generator) * 40 + 5
    labels = torch.randint(0, classes, (count,), generator=generator)
    return torch.cat((corner, corner + size), 1), torch.rand(count, generator=generator), labels


def slow_soft_nms(boxes, scores, classes, weigh, min_score=1e-3):
    left = {i: float(scores[i]) for i in range(len(boxes))}
    picked = []
    while left:
        best = max(left, key=left.get)
        score = left.pop(best)
        if score < min_score:
            break
        picked.append((best, score))
        for i in left:
            if classes[i] == classes[best]:
                left[i] *= weigh(box_iou(boxes[best, None], boxes[i, None]).item())
    return picked


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("kind", "weigh"),
    [
        ("soft_gaussian", lambda iou: math.exp(-(iou**2) / 0.5)),
        ("soft_linear", lambda iou: 1 - iou if iou > 0.3 else 1.0),
    ],
)
def test_soft_nms_equals_the_loop_of_the_paper(kind, weigh, seed):
    boxes, scores, classes = scene(seed=seed)
    keep, kept = apply_nms(boxes, scores, classes, nms_type=kind, iou_threshold=0.3)
    expected = slow_soft_nms(boxes, scores, classes, weigh)
    assert keep.tolist() == [i for i, _ in expected]
    torch.testing.assert_close(kept, torch.tensor([s for _, s in expected]))
    some, _ = apply_nms(boxes, scores, classes, nms_type=kind, iou_threshold=0.3, max_detections=7)
    assert some.tolist() == keep.tolist()[:7]


def test_a_tiny_sigma_suppresses_whatever_overlaps():
    boxes, scores, classes = scene()
    keep, kept = soft_nms(boxes, scores, classes, sigma=1e-9)
    hard = batched_nms(boxes, scores, classes, 0.0)
    assert keep.tolist() == hard.tolist() and torch.equal(kept, scores[hard])


def test_class_agnostic_keeps_one_of_two_classes_on_one_object():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
    assert apply_nms(boxes, scores, classes)[0].tolist() == [0, 1]
    assert apply_nms(boxes, scores, classes, nms_type="class_agnostic")[0].tolist() == [0]


def test_none_keeps_all_in_order():
    boxes, scores, classes = scene()
    keep, kept = apply_nms(boxes, scores, classes, nms_type="none")
    assert sorted(keep.tolist()) == list(range(60)) and kept.diff().le(0).all()


def test_nothing_in_nothing_out():
    empty = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    for kind in NMS_TYPES:
        keep, kept = apply_nms(*empty, nms_type=kind)
        assert len(keep) == len(kept) == 0 and keep.dtype == torch.int64
    with pytest.raises(ValueError, match="'hard', expected one of per_class"):
        apply_nms(*empty, nms_type="hard")


@pytest.mark.parametrize("kind", ["per_class", "class_agnostic"])
def test_stopping_early_changes_nothing(kind):
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        count = int(torch.randint(0, 400, (), generator=generator))
        corner = torch.randint(0, 12, (count, 2), generator=generator).float() * 8
        boxes = torch.cat((corner, corner + 8 * torch.randint(1, 9, (count, 2))), dim=1)
        scores = torch.randint(0, 30, (count,), generator=generator) / 30  # many are equal
        classes = torch.randint(0, 3, (count,), generator=generator)
        options = {"nms_type": kind, "iou_threshold": 0.5}
        every, every_score = apply_nms(boxes, scores, classes, **options)
        for limit in (0, 1, 3, 10, 100):
            keep, kept = apply_nms(boxes, scores, classes, **options, max_detections=limit)
            assert torch.equal(keep, every[:limit]) and torch.equal(kept, every_score[:limit])
