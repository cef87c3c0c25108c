"""Assignment of locations to boxes, against loops that spell the rule out."""

import random
import time

import pytest
import torch
from support.inputs import ground_truth
from support.models import STRIDES, level_shapes, tiny_fcos
from support.parts import labels_and_targets
from torch.utils._python_dispatch import TorchDispatchMode

from fcos_d2.modeling.assigners import CenterAssigner
from fcos_d2.modeling.ground_truth import GroundTruth
from fcos_d2.modeling.locations import make_locations, size_ranges

PUBLISHED = (64, 128, 256, 512)


def grid(height, width, boundaries=PUBLISHED):
    """points (P, 2), strides (P,), ranges (P, 2)."""
    return grid_of(make_locations(level_shapes(height, width), STRIDES), boundaries)


def grid_of(locations, boundaries=PUBLISHED):
    ranges = torch.tensor(size_ranges(boundaries, 5))
    sizes = torch.tensor(locations.level_sizes)
    return locations.points, locations.strides, ranges.repeat_interleave(sizes, dim=0)


def assign_image(*given, pairs_at_once=4_000_000, **options):
    return CenterAssigner((), **options).assign_image(*given, pairs_at_once)


def assign_boxes(locations, ranges, boxes, **options):
    counts = [len(b) for b in boxes]
    classes = torch.zeros(sum(counts), dtype=torch.int64)
    return CenterAssigner(ranges, **options)(
        locations, GroundTruth(torch.cat(boxes), classes, counts)
    )


def slow_assignment(points, strides, ranges, boxes, radius, plus_one):
    """The rule for one location and one box at a time."""
    boxes, extra = boxes.tolist(), int(plus_one)
    result = []
    for (x, y), stride, (low, high) in zip(points.tolist(), strides.tolist(), ranges.tolist()):
        owner, smallest = -1, float("inf")
        for i, (x1, y1, x2, y2) in enumerate(boxes):
            if not (x1 < x < x2 and y1 < y < y2):
                continue
            if radius is not None:
                reach = radius * stride
                if abs(x - (x1 + x2) / 2) >= reach or abs(y - (y1 + y2) / 2) >= reach:
                    continue
            area = (x2 - x1 + extra) * (y2 - y1 + extra)
            if low <= max(x - x1, y - y1, x2 - x, y2 - y) <= high and area < smallest:
                owner, smallest = i, area
        result.append(owner)
    return torch.tensor(result)


def random_boxes(rng):
    """A scene on a quarter-pixel grid (exact in float32) full of special cases."""
    boxes = []
    for _ in range(rng.randrange(10)):
        kind = rng.randrange(8)
        x, y = (rng.randrange(-80, 560) / 4 for _ in range(2))
        w, h = (rng.randrange(1, 600) / 4 for _ in range(2))
        if kind == 0 and boxes:  # the same again, or the same size elsewhere
            x1, y1, x2, y2 = rng.choice(boxes)
            shift = rng.choice((0, 0, 8))
            boxes.append([x1 + shift, y1, x2 + shift, y2])
        elif kind == 1:  # sides through locations, ends of the size ranges
            x, y = 4 + 8 * rng.randrange(16), 4 + 8 * rng.randrange(16)
            boxes.append([x, y, x + rng.choice((8, 16, 32, 64)), y + rng.choice((8, 16, 64, 128))])
        elif kind == 2:  # no width, no height, or inside out
            boxes.append([x, y, x + rng.choice((0, w, -w)), y + rng.choice((0, -h))])
        elif kind == 3:  # outside the image, or far larger than it
            far = rng.choice((200, -300, 6000))
            boxes.append([x - far, y - far, x - far + w, y - far + h])
            boxes.append([-6000 + x, -6000 + y, 6000 + x, 6000 + y])
        elif kind == 4:  # tiny
            boxes.append([x, y, x + w / 32, y + h / 32])
        else:
            boxes.append([x, y, x + w, y + h])
    rng.shuffle(boxes)
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


@pytest.mark.parametrize("plus_one", [False, True])
@pytest.mark.parametrize("radius", [None, 0.5, 1.5, 2.5])
def test_random_scenes_follow_the_rule_in_chunks_of_any_size(radius, plus_one):
    rng, owned, scenes = random.Random(f"{radius}{plus_one}"), 0, []
    for boundaries in (PUBLISHED, (16, 32, 64, 96)):
        given = grid(128, 128, boundaries)
        options = {"center_radius": radius, "plus_one_area": plus_one}
        for _ in range(25):
            boxes = random_boxes(rng)
            expected = slow_assignment(*given, boxes, radius, plus_one)
            scenes.append((boxes, expected))
            for pairs in (4_000_000, 1, 3 * len(given[0])):
                matched = assign_image(*given, boxes, **options, pairs_at_once=pairs)
                assert torch.equal(matched, expected)
            owned += (expected >= 0).sum()
        locations = make_locations(level_shapes(128, 128), STRIDES)
        matched = within_image(locations, boundaries, [b for b, _ in scenes[-25:]], options)
        assert torch.equal(matched, torch.stack([e for _, e in scenes[-25:]]))
    assert owned > 50


def within_image(locations, boundaries, boxes, options):
    """Assignment of ``assign_boxes`` as a map of box indices within each image."""
    found = assign_boxes(locations, size_ranges(boundaries, 5), boxes, **options)
    all_locations = found.image_index * len(locations.points) + found.location_index
    positive = all_locations[found.positive]
    assert len(positive.unique()) == len(positive)
    for level, index in enumerate(found.location_index.split(found.level_sizes)):
        start = sum(locations.level_sizes[:level])
        assert ((index >= start) & (index < start + locations.level_sizes[level])).all()
    matched = found.to_map(len(boxes), len(locations.points))
    compact = found.compact()
    assert compact.positive.all()
    assert len(compact.box_index) == sum(compact.level_sizes) == len(positive)
    assert torch.equal(compact.to_map(*matched.shape), matched)
    for whole, part in zip(
        found.positive.split(found.level_sizes),
        compact.positive.split(compact.level_sizes),
        strict=True,
    ):
        assert whole.sum() == len(part)
    offset = torch.tensor([0, *(len(b) for b in boxes)]).cumsum(0)[:-1, None]
    return torch.where(matched >= 0, matched - offset, matched)


def test_thousands_of_batches_equal_the_dense_rule():
    """In any grid, radius and precision of the boxes, with ties, borders and empty images."""
    rng, owned = random.Random(0), 0
    for case in range(2000):
        height, width = (rng.randrange(1, 5) * 32 for _ in range(2))
        divide = None
        if case % 3 == 0:  # torchvision's grids, whose steps are no powers of two
            divide = (height + rng.randrange(32), width + rng.randrange(32))
        locations = make_locations(level_shapes(height, width), STRIDES, divide=divide)
        options = {
            "center_radius": rng.choice((0.3, 0.5, 1.0, 1.5, 1.5, 1.7, 2.5)),
            "plus_one_area": rng.random() < 0.5,
            "exclusive_ranges": rng.random() < 0.5,
        }
        boundaries = rng.choice((PUBLISHED, (16, 32, 64, 96), (8, 9, 10, 11)))
        boxes = [random_boxes(rng) for _ in range(rng.randrange(1, 4))]
        if case % 2:  # off the quarter-pixel grid, by as little as float32 can tell
            steps = rng.choice((1e-6, 1e-3, 3.0))
            boxes = [b + steps * (torch.rand(b.shape) - 0.5) for b in boxes]
        given = grid_of(locations, boundaries)
        expected = torch.stack([assign_image(*given, b, **options) for b in boxes])
        assert torch.equal(within_image(locations, boundaries, boxes, options), expected), case
        owned += (expected >= 0).sum()
    assert owned > 4000


def test_pairs_follow_the_boxes_not_the_locations():
    boxes = [torch.rand(7, 4), torch.rand(0, 4)]
    for size in (128, 1024):
        locations = make_locations(level_shapes(size, size), STRIDES)
        found = assign_boxes(locations, size_ranges(PUBLISHED, 5), boxes)
        assert found.level_sizes == [7 * 9] * 5 and len(found.box_index) == 7 * 9 * 5


def test_broken_boxes_get_no_location_and_spoil_nothing():
    good = torch.tensor([[30.0, 30, 90, 90]])
    locations = make_locations(level_shapes(128, 128), STRIDES)
    alone = within_image(locations, PUBLISHED, [good], {})
    inf, nan = float("inf"), float("nan")
    bad = torch.tensor([[nan] * 4, [-inf, -inf, inf, inf], [1e30, 0, 2e30, 9], [0, nan, 9, 9]])
    both = within_image(locations, PUBLISHED, [torch.cat((good, bad))], {})
    assert torch.equal(both, alone) and (alone == 0).any()


def owner_of(x, y, boxes, **options):
    points, strides = torch.tensor([[x, y]]), torch.tensor([8.0])
    ranges = torch.tensor([[0.0, float("inf")]])
    options = {"center_radius": None, **options}
    return assign_image(points, strides, ranges, torch.tensor(boxes), **options).item()


def test_smaller_of_nearly_equal_areas_wins_beside_a_huge_box():
    huge, area_27, area_25 = [-6000.0, -6000, 6000, 6000], [0.0, 0, 9, 3], [0.0, 0, 5, 5]
    assert owner_of(2.0, 2.0, [huge, area_27, area_25]) == 2
    assert owner_of(2.0, 2.0, [area_25, area_27, huge]) == 0
    # 5000 x 5000 and 5001 x 4999 are the same area in float32.
    assert owner_of(2.0, 2.0, [[-1.0, -1, 4999, 4999], [-1.0, -1, 5000, 4998]]) == 1


def test_first_of_equal_areas_wins():
    assert owner_of(2.0, 2.0, [[0.0, 0, 6, 4], [0.0, 0, 4, 6], [0.0, 0, 6, 4]]) == 0


def test_area_with_a_pixel_more_may_choose_the_other_box():
    boxes = [[0.0, 0, 100, 10], [0.0, 0, 33, 31]]  # 1000 < 1023, but 101 * 11 > 34 * 32
    assert owner_of(5.0, 5.0, boxes) == 0
    assert owner_of(5.0, 5.0, boxes, plus_one_area=True) == 1


def test_a_side_through_a_location_leaves_it_outside():
    assert owner_of(4.0, 4.0, [[4.0, 0, 20, 8]]) == -1
    assert owner_of(4.0, 4.0, [[3.75, 0, 20, 8]]) == 0


def test_both_ends_of_a_size_range_belong_to_it():
    given = grid(256, 256)
    matched = assign_image(*given, torch.tensor([[52.0, 52, 132, 132]]), center_radius=None)
    largest = torch.maximum((given[0] - 52).amax(1), (132 - given[0]).amax(1))
    exactly = (matched == 0) & (largest == 64)
    assert set(given[1][exactly].tolist()) >= {8.0}
    # Distances of 64 on a p4 location: (56, 56) sees the right and bottom side at 64.
    matched = assign_image(*given, torch.tensor([[40.0, 40, 120, 120]]), center_radius=None)
    found = torch.cat((given[0], given[1][:, None]), 1)[matched == 0]
    assert [56, 56, 16] in found.tolist()


@pytest.mark.parametrize("radius", [None, 1.5])
def test_no_boxes_or_no_locations_give_background(radius):
    given = grid(128, 128)
    assert (assign_image(*given, torch.zeros(0, 4), center_radius=radius) == -1).all()
    nowhere = assign_image(*(x[:0] for x in given), torch.ones(3, 4), center_radius=radius)
    assert nowhere.shape == (0,) and nowhere.dtype == torch.int64


@pytest.mark.parametrize("radius", [None, 1.5])
def test_boxes_centred_on_the_left_edge_still_get_positives(radius):
    # Published code reads "first box centred on x = 0" as "no boxes in this image".
    boxes = torch.tensor([[-40.0, 40, 40, 120], [60, 60, 100, 100]])
    matched = assign_image(*grid(128, 128), boxes, center_radius=radius)
    assert set(matched.tolist()) == {-1, 0, 1}
    opposite = torch.tensor([[-34.0, 20, 26, 90], [-26.0, 20, 34, 90]])  # centres add up to 0
    assert set(assign_image(*grid(128, 128), opposite, center_radius=radius).tolist()) >= {0, 1}


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest boolean tensor that is computed."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if isinstance(result, torch.Tensor) and result.dtype == torch.bool:
            self.elements = max(self.elements, result.numel())
        return result


def test_thousands_of_boxes_take_bounded_memory_and_little_time():
    given, generator = grid(416, 672), torch.Generator().manual_seed(0)
    corner = torch.rand(3000, 2, generator=generator) * torch.tensor([650.0, 390.0])
    size = torch.exp(torch.rand(3000, 2, generator=generator) * 5 + 1.5)
    boxes = torch.cat((corner, corner + size), 1)
    start = time.process_time()  # of this process: the machine may be busy
    with LargestTensor() as largest:
        matched = assign_image(*given, boxes)
    assert time.process_time() - start < 10
    assert largest.elements <= 2 * 4_000_000  # x and y of 4 million location-box pairs
    assert torch.equal(matched, assign_image(*given, boxes, pairs_at_once=len(given[0]) * 20))
    some = torch.randperm(len(matched), generator=generator)[:300]
    expected = slow_assignment(*(x[some] for x in given), boxes, 1.5, False)
    assert torch.equal(matched[some], expected) and (expected >= 0).sum() > 50


@pytest.mark.parametrize("radius", [None, 1.5])
def test_labels_of_an_image_without_boxes_are_background(radius):
    model = tiny_fcos(center_radius=radius)
    locations = make_locations(level_shapes(256, 320), STRIDES)
    images = [ground_truth([], []), ground_truth([[10, 10, 90, 90]], [4])]
    labels, targets = labels_and_targets(model, locations, images)
    assert (labels[0] == 6).all() and set(labels[1].tolist()) == {4, 6}
    assert targets.shape == (2, len(locations.points), 4)
    nothing = labels_and_targets(model, locations, images[:1])[0]
    assert (nothing == 6).all()
