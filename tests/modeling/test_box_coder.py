"""Boxes as numbers, and back."""

import pytest
import torch

from fcos_d2.modeling.box_coder import BOX_CODERS, decode_boxes, ltrb_distances

POINTS = torch.tensor([[12.0, 20.0], [40.0, 40.0], [96.0, 32.0]])
STRIDES = torch.tensor([8.0, 16.0, 64.0])
BOXES = torch.tensor([[2.0, 4, 30, 21], [8, 0, 120, 90], [80, 31, 97, 60]])


@pytest.mark.parametrize("name", BOX_CODERS)
def test_a_box_that_is_encoded_and_predicted_comes_back(name):
    coder = BOX_CODERS[name]()
    targets = coder.encode(BOXES, POINTS, STRIDES)
    unit = STRIDES[:, None] if coder.in_strides else 1
    torch.testing.assert_close(targets * unit, ltrb_distances(POINTS, BOXES))
    raw = targets if name == "ltrb_relu" else targets.log()
    torch.testing.assert_close(coder.distances(raw), targets)
    torch.testing.assert_close(coder.decode(raw, POINTS, STRIDES), BOXES)


@pytest.mark.parametrize("name", BOX_CODERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_distances_are_finite_float32_and_not_negative(name, dtype):
    raw = torch.tensor([[-3e4, -1.0, 0.0, 3e4]], dtype=dtype)
    distances = BOX_CODERS[name]().distances(raw)
    assert distances.dtype == torch.float32
    assert distances.isfinite().all() and (distances >= 0).all()


def test_distances_and_boxes_are_inverse():
    assert torch.equal(decode_boxes(POINTS, ltrb_distances(POINTS, BOXES)), BOXES)
    outside = ltrb_distances(torch.tensor([0.0, 0.0]), torch.tensor([5.0, 5, 9, 9]))
    assert outside.tolist() == [-5, -5, 9, 9]
