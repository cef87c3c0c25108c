"""YOLO to COCO, to the pixel, and the errors for wrong files."""

import pytest
from PIL import Image

from fcos_d2.data.datasets.yolo import read_yolo, yolo_files


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
    data.write_text("names: [cat, dog]\ntrain: photos\n")
    with pytest.raises(FileNotFoundError, match=r"data\.yaml, line 2: no .*photos"):
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


def test_yolo_files_are_the_yaml_the_images_and_their_labels(yolo):
    names = [
        path.relative_to(yolo).as_posix() for path in yolo_files(yolo / "data.yaml", "train")[1]
    ]
    assert names[0] == "data.yaml"
    assert {"images/train/deep/c.png", "labels/train/b.txt"} < set(names)
    assert "labels/train/deep/c.txt" not in names
