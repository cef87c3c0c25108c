"""Detections as plain values, in COCO's format, and drawn."""

import json

import numpy as np
from PIL import Image

from fcos_d2.inference.detections import Detections
from fcos_d2.utils.visualize import class_color


def two_detections():
    return Detections(
        boxes=np.array([[10, 20, 40, 60], [0, 0, 5.5, 5]], np.float32),
        scores=np.array([0.9, 0.123456], np.float32),
        class_ids=np.array([1, 0]),
        class_names=["b", "a"],
        image_size=(80, 100),
        source="x.png",
    )


def test_coco_results_have_width_and_height_and_category_ids():
    first, second = two_detections().to_coco(7)
    assert first == {
        "image_id": 7,
        "category_id": 2,
        "bbox": [10, 20, 30, 40],
        "score": 0.9,
    }
    assert second["category_id"] == 1
    assert [r["category_id"] for r in two_detections().to_coco(7, [30, 50])] == [50, 30]


def test_a_dict_survives_json_and_comes_back():
    values = json.loads(json.dumps(two_detections().to_dict()))
    assert values["scores"] == [0.9, 0.12346]
    again = Detections.from_dict(values)
    assert again.to_dict() == values
    assert again.boxes.dtype == np.float32
    assert again.image_size == (80, 100)
    nothing = two_detections().select(np.zeros(2, bool))
    assert Detections.from_dict(nothing.to_dict()).boxes.shape == (0, 4)


def test_drawing_marks_the_box_in_its_color_and_leaves_the_rest():
    image = Image.new("RGB", (100, 80), (9, 9, 9))
    found = two_detections().select(np.array([True, False]))
    drawn = np.array(found.draw(image))
    color = class_color(1)
    assert (drawn[30:59, 10] == color).all()
    assert (drawn[30:59, 39] == color).all()
    assert (drawn[59, 10:40] == color).all()
    assert (drawn[30:55, 15:35] == 9).all()  # inside
    assert (drawn[:, 80:] == 9).all()
    assert (drawn[2:20, 10:30] != 9).any()  # the label above
    assert np.array(image).max() == 9


def test_labels_stay_inside_and_colors_differ():
    found = Detections(
        boxes=np.array([[90, 0, 100, 10]], np.float32),
        scores=np.array([0.5], np.float32),
        class_ids=np.array([4]),
        class_names=["a long name"],
        image_size=(80, 100),
    )
    drawn = np.array(found.draw(Image.new("RGB", (100, 80))))
    assert (drawn[4:12, 2:40] == class_color(4)).all(axis=-1).any()
    assert len({class_color(i) for i in range(80)}) == 80


def test_of_labels_that_would_cover_each_other_the_best_is_drawn_and_all_boxes_are():
    boxes = np.array([[20, 40, 90, 70], [22, 42, 80, 75]], np.float32)

    def draw(*chosen):
        found = Detections(
            boxes=boxes[list(chosen)],
            scores=np.array([0.9, 0.5], np.float32)[list(chosen)],
            class_ids=np.array([0, 1])[list(chosen)],
            class_names=[["good", "weak"][i] for i in chosen],
            image_size=(80, 100),
        )
        return np.array(found.draw(Image.new("RGB", (100, 80))))

    best, both = draw(0), draw(1, 0)  # in any order
    plate = (slice(26, 39), slice(22, 50))
    assert (best[plate] == class_color(0)).all(axis=-1).any()
    assert (both[plate] == best[plate]).all()
    assert (both[74, 22:80] == class_color(1)).all()  # the weaker one's box, without its label
