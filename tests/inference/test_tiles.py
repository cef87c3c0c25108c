"""Large pictures in tiles."""

import itertools

import numpy as np
import pytest
import torch

from fcos_d2.inference.detections import Detections
from fcos_d2.inference.predictor import Predictor, PreparedImage
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


class Squares(Predictor):
    """Finds white squares by looking; everything else is the real thing."""

    def __init__(self, cfg, **options):
        model = torch.nn.Linear(1, 1)
        super().__init__(model, cfg, ["square"], **options)

    def detect(self, pictures):
        if any(self._in_tiles(p.rgb) for p in pictures):
            return super().detect(pictures)
        return [self._look(p) for p in pictures]

    def _look(self, picture: PreparedImage) -> Detections:
        white = torch.from_numpy(picture.rgb[..., 0] > 128)
        boxes = []
        while white.any():
            y, x = (int(v) for v in white.nonzero()[0])
            right = x + int(white[y, x:].long().cumprod(0).sum())
            bottom = y + int(white[y:, x].long().cumprod(0).sum())
            white[y:bottom, x:right] = False
            boxes.append([x, y, right, bottom])
        count = len(boxes)
        return Detections(
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.full(count, 0.9, np.float32),
            class_ids=np.zeros(count, np.int64),
            class_names=["square"] * count,
            image_size=picture.rgb.shape[:2],
            source=None,
        )


def test_a_large_picture_gives_each_object_once_and_whole():
    import fcos_d2

    cfg = fcos_d2.get_cfg()
    cfg.MODEL.FCOS.NUM_CLASSES = 1
    picture = np.zeros((300, 420, 3), np.uint8)
    squares = [(10, 10), (110, 40), (86, 200), (230, 150), (395, 270), (300, 5)]
    for x, y in squares:
        picture[y : y + 18, x : x + 18] = 255
    tiled = Squares(cfg, tile=100, overlap=0.25)(picture)
    whole = Squares(cfg)(picture)
    assert tiled.image_size == (300, 420)
    expected = sorted(whole.boxes.tolist())
    assert len(expected) == len(squares) and sorted(tiled.boxes.tolist()) == expected
    small = Squares(cfg, tile=500)(picture)
    assert sorted(small.boxes.tolist()) == expected
