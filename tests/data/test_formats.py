"""VOC and YOLO to COCO, to the pixel, and what is said of files that are wrong."""

import json

import pytest
from PIL import Image

from fcos_d2.data.formats import coco_classes, load_coco, read_voc, read_yolo, yolo_sources

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
        ("<annotation>\n<object>\n</annotation>", "a.xml, line 3: no well-formed XML"),
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
    with pytest.raises(FileNotFoundError, match="no Pascal VOC folder"):
        read_voc(voc / "Annotations", "train")
    (voc / "ImageSets/Main/train.txt").write_text("a\nz\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt, line 2: no .*z\.xml"):
        read_voc(voc, "train")
    (voc / "ImageSets/Main/train.txt").write_text("c\n")
    with pytest.raises(FileNotFoundError, match=r"line 1: no image .*c\."):
        read_voc(voc, "train")


@pytest.fixture
def yolo(tmp_path):
    """Three images of 40 x 20, of which the last has no labels; data.yaml in the same folder."""
    for part in ("images/train/deep", "labels/train/deep"):
        (tmp_path / part).mkdir(parents=True)
    for name in ("a", "b", "deep/c"):
        Image.new("RGB", (40, 20)).save(tmp_path / "images/train" / f"{name}.png")
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 1.0 1.0\n0 0.25 0.5 0.1 0.2\n")
    (tmp_path / "labels/train/b.txt").write_text("1 0.5 0.25 1.0 0.75 0.75 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [cat, dog]\n")
    return tmp_path


def boxes(content):
    return [(a["image_id"], a["category_id"], a["bbox"]) for a in content["annotations"]]


def test_yolo_fractions_become_pixels(yolo):
    content, image_root = read_yolo(yolo / "data.yaml", "train")
    assert image_root == yolo / "images/train"
    assert [i["file_name"] for i in content["images"]] == ["a.png", "b.png", "deep/c.png"]
    assert {(i["width"], i["height"]) for i in content["images"]} == {(40, 20)}
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert boxes(content) == [
        (1, 2, [0, 0, 40, 20]),
        (1, 1, pytest.approx([8, 8, 4, 4])),
        (2, 2, [20, 5, 20, 10]),  # around the polygon
    ]


def test_yolo_size_is_that_of_the_turned_image(yolo):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 40)).save(yolo / "images/train/a.png", exif=exif)
    content, _ = read_yolo(yolo / "data.yaml", "train")
    assert (content["images"][0]["width"], content["images"][0]["height"]) == (40, 20)


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("path: {root}\ntrain: images/train\nnames: {{1: dog, 0: cat}}\n", "a b c"),
        ("path: .\ntrain: [images/train/deep, images/train]\nnames: [cat, dog]\nnc: 2", "c a b c"),
        ("train: list.txt\nnames: [cat, dog]\n", "b a"),
        ("train: ../images/train/deep\nnames: [cat, dog]\n", ""),
    ],
    ids=["names-as-dict", "folders", "list-of-images", "one-folder-too-high"],
)
def test_yolo_finds_images_however_they_are_listed(yolo, data, names):
    (yolo / "list.txt").write_text("./images/train/b.png\nimages/train/a.png\n")
    (yolo / "labels/train/deep/c.txt").write_text("")
    (yolo / "data.yaml").write_text(data.format(root=yolo))
    content, _ = read_yolo(yolo / "data.yaml", "train")
    assert [c["name"] for c in content["categories"]] == ["cat", "dog"]
    found = [i["file_name"].removesuffix(".png").split("/")[-1] for i in content["images"]]
    assert found == (names.split() or ["c"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 0.5 0.5 0.1", "expected `class x_center"),
        ("0 0.5 0.5 0.1 0.1 0.9", "expected `class x_center"),
        ("2 0.5 0.5 0.1 0.1", "class 2, but data.yaml names 0 to 1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5"),
        ("0 20 10 4 4", "fractions of the image"),
        ("0 0.5 nan 0.1 0.1", "fractions of the image"),
        ("cat 0.5 0.5 0.1 0.1", "expected numbers"),
    ],
)
def test_yolo_malformed_labels_name_file_and_line(yolo, line, said):
    (yolo / "labels/train/a.txt").write_text(f"0 0.5 0.5 0.1 0.1\n\n{line}\n")
    with pytest.raises(ValueError, match=f"a.txt, line 3: .*{said}"):
        read_yolo(yolo / "data.yaml", "train")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("train: images\nnames: [cat\n", "line 3: expected ','"),
        ("- train\n", "line 1: expected keys"),
        ("names: [cat, dog]\nval: images\n", "no split 'train' among the keys names, val"),
        ("train: images\nnames: {0: cat, 2: dog}\n", "line 2: the keys of names must be 0 to 1"),
        ("train: images\n\nnames: cat\n", "line 3: expected names"),
        ("train: images\nnames: [cat, cat]\n", "line 2: more than one class called cat"),
        ("names: [cat, dog]\nnc: 3\ntrain: images\n", "line 2: nc is 3, but there are 2 names"),
        ("names: [cat, dog]\ntrain: {a: 1}\n", "line 2: expected a folder"),
        ("names: [cat, dog]\ntrain: labels\n", "line 2: no images in labels"),
        ("names: [cat]\ntrain: images\nkpt_shape: [1, 2]\n", "line 3: labels with keypoints"),
    ],
)
def test_yolo_malformed_yaml_names_file_and_line(yolo, data, said):
    (yolo / "data.yaml").write_text(data)
    with pytest.raises(ValueError, match=r"data\.yaml.*") as error:
        read_yolo(yolo / "data.yaml", "train")
    assert said in str(error.value)


def test_yolo_missing_files_are_named(yolo):
    data = yolo / "data.yaml"
    with pytest.raises(FileNotFoundError, match=r"no file .*dato\.yaml"):
        read_yolo(yolo / "dato.yaml", "train")
    data.write_text("names: [cat, dog]\ntrain: pictures\n")
    with pytest.raises(FileNotFoundError, match=r"data\.yaml, line 2: no .*pictures"):
        read_yolo(data, "train")
    data.write_text("names: [cat, dog]\npath: /nowhere\ntrain: images\n")
    with pytest.raises(FileNotFoundError, match="line 2: no folder /nowhere"):
        read_yolo(data, "train")
    data.write_text("names: [cat, dog]\ntrain: list.txt\n")
    (yolo / "list.txt").write_text("images/train/a.png\nimages/train/z.png\n")
    with pytest.raises(FileNotFoundError, match=r"list\.txt, line 2: no image .*z\.png"):
        read_yolo(data, "train")


def test_yolo_refuses_images_that_all_lack_labels(yolo):
    (yolo / "data.yaml").write_text("names: [cat, dog]\ntrain: images/train/deep\n")
    with pytest.raises(FileNotFoundError, match=r"none of the 1 images.*labels/train/deep/c\.txt"):
        read_yolo(yolo / "data.yaml", "train")


def test_yolo_sources_are_the_yaml_the_images_and_their_labels(yolo):
    names = [
        path.relative_to(yolo).as_posix() for path in yolo_sources(yolo / "data.yaml", "train")[1]
    ]
    assert names[0] == "data.yaml"
    assert {"images/train/deep/c.png", "labels/train/b.txt"} < set(names)
    assert "labels/train/deep/c.txt" not in names


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
        (coco()[:-9], "damaged or no JSON"),
        ("", "damaged or no JSON"),
        ("[" * 100_000, "damaged or no JSON"),
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
