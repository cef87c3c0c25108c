"""From predictions to detections, on scenes small enough to know the answer."""

import random
from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from support.models import GivenDistances, maps
from support.parts import detect_one
from torchvision.ops import box_iou

from fcos_d2.modeling.box_coder import decode_boxes
from fcos_d2.modeling.build import with_conventions
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.head import Predictions
from fcos_d2.modeling.locations import make_locations
from fcos_d2.modeling.postprocess import (
    PostprocessOptions,
    detect_images,
    rescale_detections,
)

SIZE = (64, 64)
LOCATIONS = make_locations([(8, 8), (4, 4)], [8, 16])  # 64 + 16
OPTIONS = PostprocessOptions()
DEFAULT, ONE_PIXEL = Compat(), Compat(one_pixel_boxes=True)


def scene(boxes=(), classes=2):
    """Predictions of (location, class, class logit, quality logit, ltrb); nothing elsewhere."""
    logits = torch.full((80, classes), -20.0)
    distances, quality = torch.ones(80, 4), torch.zeros(80)
    for location, label, logit, center, ltrb in boxes:
        logits[location, label] = logit
        quality[location] = center
        distances[location] = torch.tensor(ltrb, dtype=torch.float32)
    return logits, distances, quality


def detect(predictions, options=OPTIONS, compat=DEFAULT, **changes):
    return detect_one(*predictions, LOCATIONS, SIZE, replace(options, **changes), compat)


def test_a_box_is_decoded_around_its_location():
    found = detect(scene([(9, 1, 2.0, 1.0, (2, 3, 5, 7))]))  # location (12, 12)
    assert found.pred_boxes.tensor.tolist() == [[10, 9, 17, 19]]
    assert found.pred_classes.tolist() == [1] and found.locations.tolist() == [[12, 12]]
    expected = (torch.tensor(2.0).sigmoid() * torch.tensor(1.0).sigmoid()).sqrt().item()
    assert found.scores.item() == pytest.approx(expected)
    assert decode_boxes(torch.tensor([1.0, 2]), torch.tensor([1.0, 2, 3, 4])).tolist() == [
        0,
        0,
        4,
        6,
    ]


def test_same_box_counts_once_per_class():
    corner = (8, 8, 8, 8)
    shifted = (16, 8, 0, 8)  # from the next location: the same box
    same = scene([(9, 0, 3.0, 0.0, corner), (10, 0, 2.0, 0.0, shifted)])
    found = detect(same)
    assert len(found) == 1 and found.locations.tolist() == [[12, 12]]
    other = scene([(9, 0, 3.0, 0.0, corner), (10, 1, 2.0, 0.0, shifted)])
    found = detect(other)
    assert sorted(found.pred_classes.tolist()) == [0, 1]
    predictions = scene([(9, 0, 3.0, 0.0, corner)])
    predictions[0][9, 1] = 2.0  # one location, two classes
    assert detect(predictions).pred_classes.tolist() == [0, 1]


def test_nms_compares_boxes_of_different_levels():
    # (20, 20) of the fine and (24, 24) of the coarse level: the same box.
    found = detect(
        scene([(18, 0, 1.0, 0.0, (8, 8, 12, 12)), (64 + 5, 0, 2.0, 0.0, (12, 12, 8, 8))])
    )
    assert len(found) == 1 and found.locations.tolist() == [[24, 24]]


def test_topk_holds_for_each_level_and_keeps_the_best():
    torch.manual_seed(0)
    predictions = (torch.rand(80, 3) * 4 + 1, torch.full((80, 4), 0.5), torch.rand(80))
    found = detect(predictions, topk_per_level=7, max_detections=-1)
    scores = predictions[0].sigmoid() * predictions[2].sigmoid()[:, None]
    best = [x.flatten().topk(7).values for x in scores.split([64, 16])]
    expected = torch.cat(best).sqrt().sort(descending=True).values
    torch.testing.assert_close(found.scores, expected)
    assert len(detect(predictions, topk_per_level=1000, max_detections=-1)) == 240


def test_number_of_detections_is_limited_to_the_best():
    torch.manual_seed(0)
    predictions = (torch.rand(80, 1) * 4, torch.full((80, 4), 0.5), torch.zeros(80))
    every = detect(predictions, max_detections=-1)
    assert len(every) == 80 and every.scores.diff().le(0).all()
    assert torch.equal(detect(predictions, max_detections=5).scores, every.scores[:5])
    assert len(detect(predictions, max_detections=0)) == 0


def test_threshold_is_strict_and_may_include_centerness():
    predictions = scene([(9, 0, 0.0, -1.0, (4, 4, 4, 4))])  # 0.5 and 0.5 * 0.27
    assert len(detect(predictions, score_threshold=0.5)) == 0
    assert len(detect(predictions, score_threshold=0.49)) == 1
    assert len(detect(predictions, score_threshold=0.49, threshold_with_centerness=True)) == 0
    assert len(detect(predictions, score_threshold=0.13, threshold_with_centerness=True)) == 1


@pytest.mark.parametrize("one_pixel", [False, True])
@pytest.mark.parametrize("with_centerness", [False, True])
def test_nan_predictions_give_no_detections(one_pixel, with_centerness):
    options = PostprocessOptions(threshold_with_centerness=with_centerness, topk_per_level=5)
    compat = Compat(one_pixel_boxes=one_pixel)
    logits, distances, quality = scene([(9, 0, 3.0, 0.0, (8, 8, 8, 8))])
    assert len(detect((logits, distances, quality), options, compat)) == 1
    for i, value in ((0, torch.nan), (1, torch.nan), (1, torch.inf), (2, torch.nan)):
        predictions = [logits, distances, quality]
        predictions[i] = torch.full_like(predictions[i], value)
        assert len(detect(predictions, options, compat)) == 0


def test_one_broken_location_does_not_spoil_the_others():
    same = (8, 8, 8, 8), (16, 8, 0, 8)
    boxes = [(9, 1, 3.0, 0.0, same[0]), (10, 1, 2.0, 0.0, same[1])]
    for broken in (torch.nan, torch.inf):
        found = detect(scene([*boxes, (40, 0, 4.0, 0.0, [broken] * 4)]))
        assert found.pred_boxes.tensor.tolist() == [[4, 4, 20, 20]]
        assert len(rescale_detections(found, *SIZE)) == 1


@pytest.mark.parametrize("value", [0.0, 1e6, 1e12, 1e18])
def test_extreme_distances_give_finite_boxes_inside_the_image(value):
    predictions = scene([(9, 0, 3.0, 0.0, [value] * 4), (40, 1, 2.0, 0.0, (4, 4, 4, 4))])
    found = detect(predictions)
    assert found.pred_boxes.tensor.isfinite().all() and len(found) == 2
    result = rescale_detections(found, 128, 96)
    boxes = result.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, 2] <= 96).all() and (boxes[:, 3] <= 128).all()
    assert len(result) == (2 if value else 1)  # an empty box is dropped


def some_detections(boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    n = len(boxes)
    return Instances(
        SIZE,
        pred_boxes=Boxes(boxes),
        scores=torch.arange(n, 0, -1) / n,
        pred_classes=torch.arange(n),
        locations=(boxes[:, :2] + boxes[:, 2:]) / 2,
    )


def test_rescaling_clips_drops_empty_boxes_and_leaves_its_input_alone():
    boxes = [[-10, -10, 20, 20], [8, 16, 24, 32], [70, 0, 90, 10], [5, 5, 5, 9]]
    found = some_detections(boxes)
    result = rescale_detections(found, 128, 32)
    assert result.image_size == (128, 32)
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 10, 40], [4, 32, 12, 64]]
    assert result.pred_classes.tolist() == [0, 1]
    assert result.locations[1].tolist() == [8, 48]
    assert found.pred_boxes.tensor.tolist() == boxes and found.image_size == SIZE


def test_one_pixel_boxes_are_clipped_to_the_last_pixel_and_exported_with_it():
    predictions = scene([(0, 0, 3.0, 0.0, (100, 100, 100, 100))])
    found = detect(predictions, compat=ONE_PIXEL)
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 63, 63]]
    result = rescale_detections(found, 64, 64, with_conventions(OPTIONS, ONE_PIXEL))
    assert result.pred_boxes.tensor.tolist() == [[0, 0, 64, 64]]


def test_one_pixel_boxes_overlap_more():
    # 2 x 2 pixels against 2 x 3: IoU 0.5 of areas, 9 / 12 with a pixel more.
    a, b = (1, 1, 1, 1), (9, 1, -7, 2)
    predictions = scene([(9, 0, 3.0, 0.0, a), (10, 0, 2.0, 0.0, b)])
    assert len(detect(predictions, nms_threshold=0.7)) == 2
    assert len(detect(predictions, nms_threshold=0.7, compat=ONE_PIXEL)) == 1


def test_an_image_without_candidates_gives_empty_instances():
    found = detect(scene())
    assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)
    assert found.scores.shape == found.pred_classes.shape == (0,)
    assert len(rescale_detections(found, 10, 10)) == 0


def obvious_detections(logits, distances, quality, size, options, compat):
    """Scores of everything, one level after the other, NMS pair by pair."""
    scores = logits.sigmoid() * quality.sigmoid()[:, None]
    tested = scores if options.threshold_with_centerness else logits.sigmoid()
    tested = scores.sqrt() if compat.root_score_threshold else tested
    ranked = logits.sigmoid() if compat.topk_by_class_score else scores
    passed = (tested > options.score_threshold) & distances.isfinite().all(1)[:, None]
    passed &= ~quality.isnan()[:, None]
    boxes = decode_boxes(LOCATIONS.points, distances)
    overlap = (box_iou(boxes, boxes) > options.nms_threshold).tolist()
    final = scores if compat.product_scores else scores.sqrt()
    passed, ranked, order = passed.tolist(), ranked.tolist(), scores.tolist()  # fast to read
    chosen, first = [], 0
    for level in LOCATIONS.level_sizes:
        pairs = [(i, c) for i in range(first, first + level) for c in range(logits.shape[1])]
        pairs = [(i, c) for i, c in pairs if passed[i][c]]
        chosen += sorted(pairs, key=lambda p: -ranked[p[0]][p[1]])[: options.topk_per_level]
        first += level
    kept = []
    for i, c in sorted(chosen, key=lambda p: -order[p[0]][p[1]]):
        if not any(c == d and overlap[i][j] for j, d in kept):
            kept.append((i, c))
    kept = kept if options.max_detections < 0 else kept[: options.max_detections]
    return [(boxes[i], final[i, c], c) for i, c in kept]


def test_random_batches_equal_the_obvious_way():
    rng, found_in_all = random.Random(0), 0
    for case in range(120):
        images, classes = rng.randrange(1, 4), rng.randrange(1, 4)
        generator = torch.Generator().manual_seed(case)
        random_tensor = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: B023, E731
        logits = random_tensor(images, 80, classes) * 2 - rng.choice((2, 5, 9))
        distances = random_tensor(images, 80, 4).abs() * 12
        quality = random_tensor(images, 80)
        if case % 5 == 0:  # what a model that diverges says
            distances[0, 3], quality[-1, 7] = torch.inf, torch.nan
        if case % 7 == 0:
            logits[0] -= 30.0  # an image without anything, but for a threshold of 0
        options = PostprocessOptions(
            score_threshold=rng.choice((0.0, 0.05, 0.3)),
            threshold_with_centerness=rng.random() < 0.5,
            topk_per_level=rng.choice((3, 20, 1000)),
            max_detections=rng.choice((-1, 0, 5, 100)),
        )
        compat = Compat(
            root_score_threshold=rng.random() < 0.3,
            topk_by_class_score=rng.random() < 0.3,
            product_scores=rng.random() < 0.3,
        )
        given = (maps(x, LOCATIONS) for x in (logits, distances, quality))
        followed = with_conventions(options, compat)
        found = detect_images(
            Predictions(*given, LOCATIONS), [SIZE] * images, followed, GivenDistances()
        )
        for i, ours in enumerate(found):
            expected = obvious_detections(
                logits[i], distances[i], quality[i], SIZE, options, compat
            )
            assert ours.pred_classes.tolist() == [c for _, _, c in expected], case
            if expected:
                boxes, scores, _ = zip(*expected)
                assert torch.equal(ours.pred_boxes.tensor, torch.stack(boxes))
                torch.testing.assert_close(ours.scores, torch.stack(scores))
            found_in_all += len(expected)
    assert found_in_all > 1500
