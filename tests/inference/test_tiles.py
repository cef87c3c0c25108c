"""Large images in tiles."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

import fcos_d2
from fcos_d2.inference.tiles import cut_by_tile, merge_tiles, tile_windows


@pytest.mark.parametrize(
    ("height", "width", "tile", "overlap"),
    [(400, 1000, 256, 0.2), (257, 255, 256, 0.5), (100, 90, 256, 0.2), (513, 512, 256, 0.0)],
)
def test_tiles_cover_everything_are_full_and_overlap(height, width, tile, overlap):
    covered = np.zeros((height, width), int)
    windows = tile_windows(height, width, tile, overlap)
    for x1, y1, x2, y2 in windows:
        assert (x2 - x1, y2 - y1) == (min(tile, width), min(tile, height))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    starts = sorted({x for x, *_ in windows})
    assert all(b - a <= tile * (1 - overlap) + 1 for a, b in itertools.pairwise(starts))


def test_impossible_tiles_are_refused():
    with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
        tile_windows(9, 9, 0)
    with pytest.raises(ValueError, match=r"below 1, got 1\.0"):
        tile_windows(9, 9, 5, 1.0)


def test_boxes_at_inner_edges_are_cut_and_those_at_the_border_are_not():
    boxes = torch.tensor([[0.0, 0, 20, 20], [40, 5, 50, 20], [20, 20, 30, 30]])
    assert cut_by_tile(boxes, (0, 0, 50, 50), 100, 100).tolist() == [False, True, False]
    assert cut_by_tile(boxes, (0, 0, 50, 50), 50, 50).tolist() == [False, False, False]


def test_whole_boxes_win_over_their_parts_and_classes_stay_apart():
    boxes = torch.tensor(
        [[0.0, 0, 40, 40], [0, 0, 25, 40], [1, 0, 40, 40], [0, 0, 25, 40], [80, 0, 90, 9]]
    )
    scores = torch.tensor([0.6, 0.9, 0.5, 0.8, 0.95])
    classes = torch.tensor([0, 0, 0, 1, 0])
    cut = torch.tensor([False, True, False, True, False])
    assert merge_tiles(boxes, scores, classes, cut, 0.6).tolist() == [4, 3, 0]
    empty = torch.zeros(0)
    assert merge_tiles(empty.view(0, 4), empty, empty.long(), empty.bool(), 0.6).tolist() == []


class Squares(torch.nn.Module):
    """Finds white squares by looking, with the interface of a detection model."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))  # decides the device of the predictor

    def forward(self, inputs):
        return [{"instances": self.look(x["image"][0] > 128)} for x in inputs]

    def look(self, white):
        boxes = []
        while white.any():
            y, x = (int(v) for v in white.nonzero()[0])
            right = x + int(white[y, x:].long().cumprod(0).sum())
            bottom = y + int(white[y:, x].long().cumprod(0).sum())
            white[y:bottom, x:right] = False
            boxes.append([x, y, right, bottom])
        return Instances(
            tuple(white.shape),
            pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            scores=torch.full((len(boxes),), 0.9),
            pred_classes=torch.zeros(len(boxes), dtype=torch.int64),
        )


def test_a_large_image_gives_each_object_once_and_whole():
    cfg = fcos_d2.get_cfg()
    cfg.MODEL.FCOS.NUM_CLASSES = 1
    cfg.INPUT.MIN_SIZE_TEST = 0  # keeps the size
    image = np.zeros((300, 420, 3), np.uint8)
    squares = [(10, 10), (110, 40), (86, 200), (230, 150), (395, 270), (300, 5)]
    for x, y in squares:
        image[y : y + 18, x : x + 18] = 255

    def detect(**options):
        return fcos_d2.Predictor(Squares(), cfg, ["square"], **options)(image)

    tiled, whole, small = detect(tile=100, overlap=0.25), detect(), detect(tile=500)
    assert tiled.image_size == (300, 420)
    expected = sorted(whole.boxes.tolist())
    assert len(expected) == len(squares) and sorted(tiled.boxes.tolist()) == expected
    assert sorted(small.boxes.tolist()) == expected
