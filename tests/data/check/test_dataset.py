"""Every fault of a dataset is found, and nothing else is reported."""

import json

import numpy as np
import pytest
from PIL import Image
from support.coco_maker import CATEGORIES, RULE

from fcos_d2.data.check.dataset import check_dataset
from fcos_d2.data.check.findings import KINDS
from fcos_d2.data.check.learnable import InputRule
from fcos_d2.data.check.report import findings_table


def texts(findings):
    """{kind: texts of its examples}, having made sure that counts and severities fit."""
    for finding in findings:
        assert finding.severity == KINDS[finding.kind][0]
        assert finding.count >= len(finding.examples) > 0
    return {finding.kind: [e.text for e in finding.examples] for finding in findings}


def found(train, val=None, **options):
    options = {"rule": RULE, **options}
    return texts(check_dataset(train.load(), val.load() if val else None, **options))


def save_turned(maker, name, size, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise = maker.rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(maker.path(name), exif=exif)


def test_a_clean_set_has_no_findings(train, val):
    assert check_dataset(train.load(), val.load(), rule=RULE) == []
    assert check_dataset(train.load(), fast=True) == []
    assert findings_table([]) == "Nothing found"


def test_a_set_with_every_fault_at_once_shows_every_kind(train, val):
    for name, size, box in (
        ("gone.png", (64, 48), (8, 8, 24, 20)),
        ("text.png", (64, 48), (5, 5, float("nan"), 9)),
        ("turned.jpg", (64, 48), (5, 5, 0, 9)),
        ("upside.jpg", (64, 48), (64, 5, 9, 9)),
        ("copy.png", (64, 48), (50, 8, 20, 20)),
        ("small.png", (65, 48), (8, 8, 0.5, 20)),
        ("a.png", (64, 48), (5, 5, 2, 2)),
    ):
        train.image(name, size=size, boxes=[box], write=name == "small.png")
    train.path("text.png").write_text("no image")
    save_turned(train, "turned.jpg", (64, 48), 6)
    save_turned(train, "upside.jpg", (64, 48), 3)
    train.path("copy.png").write_bytes(train.path("a.png").read_bytes())
    train.content["images"][-2]["width"] = 66
    train.image("empty.png", boxes=())
    train.content["images"].append(dict(train.content["images"][0], file_name="v.png"))
    train.path("v.png").write_bytes(train.path("b.jpg").read_bytes())
    train.image("w2.jpg", write=False)
    train.path("w2.jpg").write_bytes(val.path("w.jpg").read_bytes())
    train.content["annotations"].append(dict(train.content["annotations"][0]))
    train.box(77, (8, 8, 24, 20), category_id=55, id=0, area=None, ignore=1)
    train.content["categories"] = [*CATEGORIES, *[{"id": 3, "name": "dog"}] * 2]
    val.content["categories"] = [CATEGORIES[0], {"id": 9, "name": "dog"}]
    # category_order_differs excludes other kinds: see its test below.
    assert set(found(train, val)) == set(KINDS) - {"category_order_differs"}


def test_files_that_are_missing_truncated_or_no_images(train):
    train.image("gone.png", write=False)
    train.image("x" * 300, write=False)
    train.image("cut.jpg")
    train.path("cut.jpg").write_bytes(train.path("cut.jpg").read_bytes()[:-400])
    train.image("cut.png")
    train.path("cut.png").write_bytes(train.path("cut.png").read_bytes()[:-400])
    train.image("text.png", write=False)
    train.path("text.png").write_text("no image")
    result = found(train)
    assert set(result) == {"image_missing", "image_unreadable"}
    assert [t.split(":")[0] for t in result["image_missing"]] == ["train gone.png"]
    assert [t.split(":")[0] for t in result["image_unreadable"]] == [
        f"train {'x' * 300}",
        "train cut.jpg",
        "train cut.png",
        "train text.png",
    ]
    fast = found(train, fast=True)["image_unreadable"]
    assert not any("cut.jpg" in text for text in fast) and any("text.png" in t for t in fast)


def test_sizes_and_exif_turns_against_the_json(train):
    train.image("size.png", width=65)
    for name, size, orientation in (
        ("turned.jpg", (64, 48), 6),  # the JSON has the size before turning
        ("upright.jpg", (48, 64), 6),  # the JSON has the size after turning: as it should be
        ("upside.jpg", (64, 48), 3),
        ("square.jpg", (32, 32), 8),
    ):
        train.image(name, size=(32, 32) if name == "square.jpg" else (64, 48), write=False)
        save_turned(train, name, size, orientation)
    assert found(train) == {
        "size_differs": ["train size.png: 64 x 48, JSON 65 x 48"],
        "exif_rotation": ["train turned.jpg: read as 48 x 64, JSON 64 x 48"],
        "exif_ambiguous": ["train upside.jpg: orientation 3", "train square.jpg: orientation 8"],
    }


def test_detectron2_reads_the_size_that_is_expected_of_turned_images(train):
    from detectron2.data.detection_utils import read_image

    save_turned(train, "t.jpg", (64, 48), 6)
    assert read_image(str(train.path("t.jpg")), "RGB").shape[:2] == (64, 48)


@pytest.mark.parametrize(
    ("kind", "box"),
    [
        ("box_empty", [5, 5, 0, 9]),
        ("box_empty", [5, 5, 9, -3]),
        ("box_not_finite", [5, 5, float("nan"), 9]),
        ("box_not_finite", [5, float("inf"), 9, 9]),
        ("box_outside", [64, 5, 9, 9]),
        ("box_outside", [5, -9, 9, 9]),
        ("box_over_border", [50, 8, 15, 20]),
        ("box_over_border", [-1, 8, 20, 20]),
    ],
)
def test_bad_boxes_are_reported_with_annotation_image_and_place(train, kind, box):
    train.box(1, box)
    assert found(train) == {
        kind: [f"train a.png: annotation 3, box {json.dumps(box)}, image 64 x 48"]
    }
    (finding,) = check_dataset(train.load(), rule=RULE)
    x, y, width, height = box
    assert finding.examples[0].path == train.path("a.png")
    np.testing.assert_equal(finding.examples[0].box, (x, y, x + width, y + height))


def test_half_a_pixel_over_the_border_is_rounding(train):
    train.box(1, [40, 20, 24.4, 28.4])
    assert found(train) == {}


def test_boxes_below_a_pixel_depend_on_the_input_size(train):
    train.image("wide.png", size=(64, 32), boxes=[(3, 3, 8, 1.5)])
    assert "box_tiny" not in found(train)
    small = found(train, rule=InputRule(min_size=16, max_size=1000))
    assert [t.split(",")[0] for t in small["box_tiny"]] == ["train wide.png: annotation 3"]
    limited = found(train, rule=InputRule(min_size=64, max_size=32))
    assert len(limited["box_tiny"]) == 1


def test_boxes_that_no_location_learns(train):
    train.box(1, (8, 8, 24, 20))  # the same as the first: only that one is learned
    train.box(2, (5, 5, 2, 2))  # between the locations at 4 and 12
    train.box(2, (21, 21, 2, 2), iscrowd=1)  # ignored anyhow
    crowded = found(train)
    assert list(crowded) == ["box_without_location"]
    assert [t.split(",")[0] for t in crowded["box_without_location"]] == [
        "train a.png: annotation 3",
        "train b.jpg: annotation 4",
    ]
    larger = found(train, rule=InputRule(min_size=384, max_size=1000))["box_without_location"]
    assert [t.split(",")[0] for t in larger] == ["train a.png: annotation 3"]


def test_ids_and_names_that_are_there_twice(train):
    train.content["categories"] = [*CATEGORIES, {"id": 2, "name": "cat"}]
    train.content["annotations"][1]["id"] = 1
    train.image("c.png", boxes=())
    train.content["images"][2]["id"] = 2
    train.image("a.png", write=False)
    assert found(train) == {
        "category_id_twice": ["train: id 2, 2 times"],
        "category_name_twice": ["train: name cat, 2 times"],
        "annotation_id_twice": ["train: id 1, 2 times"],
        "image_id_twice": ["train: id 2, 2 times"],
        "file_name_twice": ["train: file_name a.png, 2 times"],
    }


def test_what_reading_and_evaluation_would_stop_at(train):
    first, second = train.content["annotations"]
    del first["iscrowd"]
    second.update(id=0, ignore=1, area=None)
    assert found(train) == {
        "area_or_iscrowd": [
            "train: annotation 1, area 100, iscrowd None",
            "train: annotation 0, area None, iscrowd 0",
        ],
        "ignore_set": ["train: annotation 0, ignore 1"],
        "annotation_id_zero": ["train: annotation 0"],
    }


def test_annotations_of_nothing(train):
    train.box(77, (8, 8, 24, 20))
    train.box(1, (8, 30, 30, 9), category_id=55)
    assert found(train) == {
        "unknown_image": ["train: annotation 3, image 77"],
        "unknown_category": ["train: annotation 4, category 55"],
    }


def test_images_and_classes_without_boxes(train):
    train.image("empty.png", boxes=())
    train.content["categories"] = [*CATEGORIES, {"id": 3, "name": "ant"}]
    assert found(train) == {
        "class_without_boxes": ["train: ant (id 3)"],
        "image_without_boxes": ["train empty.png: no annotation"],
    }


def test_duplicate_images(train, val):
    train.image("copy.png", write=False)
    train.path("copy.png").write_bytes(train.path("a.png").read_bytes())
    val.image("other.jpg", size=(48, 64), write=False)
    val.path("other.jpg").write_bytes(train.path("b.jpg").read_bytes())
    val.image("a.png")
    assert found(train, val) == {
        "content_twice": ["train a.png = train copy.png"],
        "same_picture_in_val": ["train b.jpg = val other.jpg"],
        "same_name_in_val": ["a.png"],
    }


def test_one_image_folder_for_train_and_val_with_a_shared_file(train):
    result = check_dataset(train.load(), train.load(), rule=RULE)
    assert texts(result) == {
        "same_picture_in_val": ["train a.png = val a.png", "train b.jpg = val b.jpg"]
    }


@pytest.mark.parametrize(
    ("categories", "expected"),
    [
        (CATEGORIES[::-1], {"category_order_differs": ["train [(1, 'cat'), (2, 'dog')], val"]}),
        (
            [{"id": 2, "name": "cat"}, {"id": 1, "name": "dog"}],
            {
                "category_names_differ": [
                    "class 0 is cat (id 1) in train, dog (id 1) in val",
                    "class 1 is dog (id 2) in train, cat (id 2) in val",
                ]
            },
        ),
        (
            [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}],
            {"category_ids_differ": ["class 1 is dog (id 2) in train, dog (id 3) in val"]},
        ),
        (
            CATEGORIES[:1],
            {"category_names_differ": ["class 1 is dog (id 2) in train, nothing in val"]},
        ),
    ],
)
def test_categories_that_differ(train, val, categories, expected):
    val.content["categories"] = categories
    for annotation in val.content["annotations"]:
        annotation["category_id"] = categories[annotation["id"] % len(categories)]["id"]
    result = found(train, val)
    assert set(result) == set(expected)
    for kind, starts in expected.items():
        assert len(result[kind]) == len(starts)
        assert all(text.startswith(start) for text, start in zip(result[kind], starts))
