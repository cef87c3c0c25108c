"""COCO files are read unchanged, or refused with the wrong field."""

import json

import pytest

from fcos_d2.data.datasets.coco import coco_classes, load_coco


def coco(**changes):
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 4, "height": 3}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1.5]}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
    }
    for key, value in changes.items():
        part, _, field = key.partition("__")
        if not field:
            content[part] = value
        elif value is KeyError:
            del content[part][0][field]
        else:
            content[part][0][field] = value
    return json.dumps(content)


def test_coco_is_read_as_it_is(tmp_path):
    (tmp_path / "a.json").write_text(coco())
    content, image_root = load_coco(tmp_path / "a.json", tmp_path)
    assert content == json.loads(coco()) and image_root == tmp_path
    assert coco_classes(tmp_path / "a.json") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (coco()[:-9], "damaged or not JSON"),
        ("", "damaged or not JSON"),
        ("[" * 100_000, "damaged or not JSON"),
        ("[1, 2]", "got a list"),
        ("{}", "no key 'categories', expected a list"),
        (coco(images={"a": 1}), "images is {'a': 1}, expected a list"),
        (coco(images=[]), "no images"),
        (coco(categories=[]), "no categories"),
        (coco(images__width=1e300), "expected a positive whole number"),
        (coco(images=[3]), r"images\[0\] is 3, expected an object"),
        (coco(images__file_name=KeyError), r"images\[0\] has no 'file_name'"),
        (coco(images__width="4"), r"images\[0\]\['width'\] is '4', expected a positive"),
        (coco(images__height=0), r"images\[0\]\['height'\] is 0"),
        (coco(images__id=None), r"images\[0\]\['id'\] is None"),
        (coco(annotations__bbox=[1, 2, 3]), r"annotations\[0\]\['bbox'\] is \[1, 2, 3\]"),
        (coco(annotations__bbox=[1, 2, 3, "4"]), r"\['bbox'\] is \[1, 2, 3, '4'\]"),
        (coco(annotations__bbox=None), r"\['bbox'\] is None"),
        (coco(annotations__bbox=[10**400] * 4), r"\['bbox'\] is"),
        (coco(annotations__image_id="1"), r"\['image_id'\] is '1', expected a whole number"),
        (coco(annotations__category_id=1.5), r"\['category_id'\] is 1.5"),
        (coco(categories__name=5), r"categories\[0\]\['name'\] is 5, expected a text"),
    ],
)
def test_coco_damage_is_one_line_that_names_the_place(tmp_path, text, said):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=said) as error:
        load_coco(tmp_path / "a.json", tmp_path)
    assert "a.json" in str(error.value) and "\n" not in str(error.value)


def test_coco_missing_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text(coco())
    with pytest.raises(FileNotFoundError, match=r"no annotation file .*b\.json"):
        load_coco(tmp_path / "b.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no image folder .*images"):
        load_coco(tmp_path / "a.json", tmp_path / "images")
