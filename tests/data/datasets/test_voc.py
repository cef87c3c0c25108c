"""Pascal VOC to COCO, to the pixel, and the errors for wrong files."""

import pytest
from PIL import Image

from fcos_d2.data.datasets.voc import read_voc

XML = """<annotation>
  <size><width>40</width><height>30</height><depth>3</depth></size>
{objects}
</annotation>
"""
OBJECT = """  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox>
  </object>"""


def voc_object(name, *box, difficult=0):
    return OBJECT.format(*box, name=name, difficult=difficult)


@pytest.fixture
def voc(tmp_path):
    """Two 40 x 30 images in the list, and a third that only the classes come from."""
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / part).mkdir(parents=True)
    objects = {
        "a": [voc_object("dog", 1, 1, 40, 30), voc_object("cat", 11, 6, 20, 10, difficult=1)],
        "b": [],
        "c": [voc_object("ant", 2, 2, 3, 3)],
    }
    for name, items in objects.items():
        xml = XML.format(objects="\n".join(items))
        (tmp_path / "Annotations" / f"{name}.xml").write_text(xml)
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / "a.jpg")
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages" / "b.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\n\n")
    return tmp_path


def test_voc_counts_pixels_from_one_and_includes_the_last(voc):
    content, image_root = read_voc(voc, "train")
    assert image_root == voc / "JPEGImages"
    assert content["categories"] == [
        {"id": 1, "name": "ant"},
        {"id": 2, "name": "cat"},
        {"id": 3, "name": "dog"},
    ]
    assert content["images"] == [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 2, "file_name": "b.png", "width": 40, "height": 30},
    ]
    dog, cat = content["annotations"]
    assert dog == {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "bbox": [0, 0, 40, 30],
        "area": 1200,
        "iscrowd": 0,
    }
    assert (cat["bbox"], cat["area"], cat["category_id"]) == ([10, 5, 10, 5], 50, 2)


@pytest.mark.parametrize(
    ("difficult", "crowds"), [("keep", [0, 0]), ("ignore", [0, 1]), ("drop", [0])]
)
def test_voc_difficult_objects_are_what_was_asked_for(voc, difficult, crowds):
    content, _ = read_voc(voc, "train", difficult=difficult)
    assert [a["iscrowd"] for a in content["annotations"]] == crowds


def test_voc_objects_of_other_classes_are_left_out_and_counted(voc, caplog):
    content, _ = read_voc(voc, "train", classes=["dog", "bee"])
    assert [c["name"] for c in content["categories"]] == ["dog", "bee"]
    assert [a["category_id"] for a in content["annotations"]] == [1]
    assert "1 cat" in caplog.text


def test_voc_size_comes_from_the_image_if_the_xml_has_none(voc):
    path = voc / "Annotations" / "b.xml"
    path.write_text("<annotation></annotation>")
    content, _ = read_voc(voc, "train")
    assert content["images"][1] == {"id": 2, "file_name": "b.png", "width": 40, "height": 30}


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        ("<annotation>\n<object>\n</annotation>", "a.xml, line 3: not well-formed XML"),
        ("<annotation>\n\n<object/></annotation>", "a.xml, line 3: an object without a name"),
        (
            XML.format(objects=voc_object("cat", 1, "two", 3, 4)),
            "a.xml, line 6: expected a number as bndbox/ymin, got 'two'",
        ),
        (
            "<annotation>\n<object><name>cat</name></object></annotation>",
            "a.xml, line 2: expected a number as bndbox/xmin, got nothing",
        ),
        (XML.format(objects=voc_object("cat", 9, 1, 3, 4)), "a.xml, line 3: .* maximum is below"),
        (
            '<!DOCTYPE a [\n<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>',
            "a.xml, line 2: entities are not allowed",
        ),
    ],
)
def test_voc_malformed_xml_names_file_and_line(voc, xml, said):
    (voc / "Annotations" / "a.xml").write_text(xml)
    with pytest.raises(ValueError, match=said):
        read_voc(voc, "train")


def test_voc_missing_files_are_named(voc):
    with pytest.raises(FileNotFoundError, match=r"trian\.txt.*known: train"):
        read_voc(voc, "trian")
    with pytest.raises(FileNotFoundError, match="not a Pascal VOC folder"):
        read_voc(voc / "Annotations", "train")
    (voc / "ImageSets/Main/train.txt").write_text("a\nz\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt, line 2: no .*z\.xml"):
        read_voc(voc, "train")
    (voc / "ImageSets/Main/train.txt").write_text("c\n")
    with pytest.raises(FileNotFoundError, match=r"line 1: no image .*c\."):
        read_voc(voc, "train")
