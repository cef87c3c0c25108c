"""Findings as tables and images."""

import numpy as np
from PIL import Image
from support.coco_maker import CATEGORIES, RULE

from fcos_d2.data.check.dataset import check_dataset
from fcos_d2.data.check.report import class_table, findings_table, save_images


def test_counts_go_on_where_examples_end(train):
    for _ in range(30):
        train.box(1, (5, 5, 0, 0))
    (finding,) = check_dataset(train.load(), rule=RULE)
    assert (finding.count, len(finding.examples)) == (30, 20)
    assert "... 27 more" in findings_table([finding])
    assert "box_empty: a box whose width" in findings_table([finding])


def test_frequencies_of_classes(train, val):
    train.box(1, (8, 30, 30, 9), category_id=1)
    val.content["categories"] = [*CATEGORIES, {"id": 0, "name": "007"}]
    rows = [line.split() for line in class_table(train.load(), val.load()).splitlines()[2:]]
    assert rows == [
        ["0", "007", "0", "0"],
        ["1", "cat", "2", "1", "1", "1"],
        ["2", "dog", "1", "1", "1", "1"],
    ]


def test_images_show_the_bad_boxes(train, tmp_path):
    train.box(1, (30, 30, 0, 9))
    train.box(2, (200, 5, 9, 9))
    train.box(2, (5, 5, float("nan"), 9))
    train.image("gone.png", write=False)
    findings = check_dataset(train.load(), rule=RULE)
    assert save_images(findings, tmp_path / "images_with_boxes") == 3
    names = sorted(path.name for path in (tmp_path / "images_with_boxes").iterdir())
    assert names == ["box_empty-01-a.png", "box_not_finite-01-b.png", "box_outside-01-b.png"]
    before = np.asarray(Image.open(train.path("a.png")))
    after = np.asarray(Image.open(tmp_path / "images_with_boxes" / names[0]))
    changed = np.argwhere((before != after).any(axis=2))
    assert (after[30, 30] == (0, 229, 255)).all()
    assert changed.min(0).tolist() >= [28, 28] and changed.max(0).tolist() <= [41, 37]
