"""Boxes drawn on tensors."""

import torch
from detectron2.structures import Boxes, Instances

from fcos_d2.utils.visualize import (
    DETECTION_COLOR,
    GROUND_TRUTH_COLOR,
    draw_boxes,
    training_image,
)


def colored(image, color):
    """(H, W) bool: pixels of this color."""
    return (image == torch.tensor(color, dtype=torch.uint8)[:, None, None]).all(dim=0)


def test_an_outline_covers_the_border_pixels_of_its_box():
    image = torch.full((3, 40, 60), 9, dtype=torch.uint8)
    boxes = torch.tensor([[10.0, 5.0, 30.0, 25.0], [40.0, 5.0, 40.0, 25.0]])  # one without area
    drawn = draw_boxes(image, boxes, DETECTION_COLOR)
    expected = torch.zeros(40, 60, dtype=torch.bool)
    expected[5:25, 10:30] = True
    expected[7:23, 12:28] = False
    assert torch.equal(colored(drawn, DETECTION_COLOR), expected)
    assert (drawn[:, ~expected] == 9).all()
    assert (image == 9).all()


def test_without_boxes_the_image_is_copied():
    image = torch.randint(0, 256, (3, 8, 9), dtype=torch.uint8)
    drawn = draw_boxes(image, torch.zeros(0, 4), DETECTION_COLOR)
    assert torch.equal(drawn, image) and drawn.data_ptr() != image.data_ptr()


def test_a_training_image_has_ground_truth_on_the_left_and_the_best_detections_on_the_right():
    image = torch.zeros(3, 40, 60)
    image[0] = 200.0  # blue, in BGR
    truth = Instances((40, 60), gt_boxes=Boxes(torch.tensor([[5.0, 5.0, 20.0, 20.0]])))
    boxes = torch.tensor([[10.0, 10.0, 30.0, 30.0], [40.0, 10.0, 50.0, 30.0]])
    inputs = {"image": image, "instances": truth}
    found = Instances((40, 60), pred_boxes=Boxes(boxes))
    drawn = torch.from_numpy(training_image(inputs, found, "BGR", max_boxes=1))
    assert drawn.shape == (3, 40, 120)
    assert drawn[:, 0, 0].tolist() == [0, 0, 200]
    left, right = drawn[..., :60], drawn[..., 60:]
    assert colored(left, GROUND_TRUTH_COLOR)[5, 5:20].all()
    assert colored(right, DETECTION_COLOR)[10, 10:30].all()
    assert not colored(right, DETECTION_COLOR)[:, 40:].any()
