import hashlib
import io
import json
import logging
import zipfile

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from PIL import Image

from fcos_d2.data.datasets.builtin import register_neon_trees
from fcos_d2.quickstart import neon_trees
from fcos_d2.quickstart.fetch import Wheel
from fcos_d2.quickstart.neon_trees import prepare_neon_trees, tile_boxes

DATASETS = {"train": "images/train", "val": "images/val", "osbs": "images/osbs"}
DATASETS["val_whole"] = "whole"
SIZES = {neon_trees._TRAIN: (90, 70), neon_trees._VAL: (300, 270), neon_trees._OSBS: (40, 50)}


def voc_xml(size, boxes, name="Tree"):
    """Pascal VOC's XML; its filename field is of another format, as in the real package."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><ymax>{y1}</ymax><xmin>{x0}</xmin>"
        f"<ymin>{y0}</ymin><xmax>{x1}</xmax></bndbox></object>"
        for x0, y0, x1, y1 in boxes
    )
    return (
        f"<annotation><filename>other.tif</filename><size><width>{size[0]}</width>"
        f"<height>{size[1]}</height></size>{objects}</annotation>"
    ).encode()


def random_boxes(rng, count, size):
    corners = rng.integers(0, [size[0] - 12, size[1] - 12], (count, 2))
    return np.concatenate([corners, corners + rng.integers(4, 13, (count, 2))], axis=1)


def make_wheel(folder, change=None):
    """A small wheel with the real one's members, where fetch_wheel looks for it."""
    rng = np.random.default_rng(0)
    members, images = {}, {}
    for stem, size in SIZES.items():
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        boxes = random_boxes(rng, 9, size)
        png = io.BytesIO()
        Image.fromarray(pixels).save(png, "PNG")
        members[f"deepforest/data/{stem}.png"] = png.getvalue()
        members[f"deepforest/data/{stem}.xml"] = voc_xml(size, boxes)
        images[stem] = pixels, boxes
    if change:
        change(members)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "deepforest-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return Wheel("deepforest==0.1", hashlib.sha256(path.read_bytes()).hexdigest()), images


@pytest.fixture
def prepared(tmp_path):
    source, images = make_wheel(tmp_path / "downloads")

    def prepare(**kwargs):
        kwargs = {"train_tile": 40, "train_overlap": 20, "source": source, **kwargs}
        return prepare_neon_trees(tmp_path, **kwargs)

    prepare()
    return prepare, tmp_path / "neon_trees", images


def read_coco(home, dataset):
    return json.loads((home / "annotations" / f"{dataset}.json").read_text(encoding="utf-8"))


def slow_tiles(boxes, size, tile, overlap, min_visible):
    """Reference for tile_boxes: one window and one box at a time."""
    starts = []
    for side in size:
        positions = [0]
        if overlap == 0:
            while positions[-1] + tile < side:
                positions.append(positions[-1] + tile)
        else:
            while positions[-1] + tile < side:
                positions.append(min(positions[-1] + tile - overlap, side - tile))
        starts.append(positions)
    windows, found = [], []
    for y in starts[1]:
        for x in starts[0]:
            right, bottom = min(x + tile, size[0]), min(y + tile, size[1])
            for i, (x0, y0, x1, y1) in enumerate(boxes):
                a, b, c, d = max(x0, x), max(y0, y), min(x1, right), min(y1, bottom)
                inside = max(c - a, 0) * max(d - b, 0)
                if inside > min_visible * (x1 - x0) * (y1 - y0):
                    found.append((len(windows), i, a - x, b - y, c - x, d - y))
            windows.append((x, y, right, bottom))
    return windows, found


@pytest.mark.parametrize("overlap", [0, 1, 12, 31])
@pytest.mark.parametrize("size", [(100, 75), (96, 64), (33, 32), (20, 70), (5, 9)])
def test_tiles_are_those_of_a_plain_loop(size, overlap):
    rng = np.random.default_rng(size[0] * 100 + overlap)
    corners = rng.integers(0, size, (60, 2))
    # Quarter pixels; some boxes touch the border and some are larger than a window.
    ends = np.minimum(corners + rng.integers(1, 240, (60, 2)) / 4, size)
    boxes = np.concatenate([corners, ends], axis=1)
    tiles = tile_boxes(boxes, size, 32, overlap, min_visible=0.37)
    windows, found = slow_tiles(boxes.tolist(), size, 32, overlap, 0.37)
    assert tiles.windows.tolist() == [list(w) for w in windows]
    assert list(zip(tiles.window_index.tolist(), tiles.box_index.tolist())) == [
        f[:2] for f in found
    ]
    np.testing.assert_array_equal(tiles.boxes, np.array([f[2:] for f in found]).reshape(-1, 4))


def test_without_overlap_tiles_partition_the_image():
    windows = tile_boxes(np.zeros((0, 4)), (1249, 1035), 256).windows
    seen = np.zeros((1035, 1249), dtype=int)
    for x0, y0, x1, y1 in windows:
        seen[y0:y1, x0:x1] += 1
    assert len(windows) == 25
    assert (seen == 1).all()


def test_with_overlap_all_tiles_are_full_and_cover_the_image():
    windows = tile_boxes(np.zeros((0, 4)), (130, 97), 40, 15).windows
    seen = np.zeros((97, 130), dtype=int)
    for x0, y0, x1, y1 in windows:
        seen[y0:y1, x0:x1] += 1
    assert (windows[:, 2:] - windows[:, :2] == 40).all()
    assert (seen >= 1).all()


def test_a_box_needs_more_than_the_given_share():
    # 4 and 5 of 10 pixels left of x = 10.
    tiles = tile_boxes(np.array([[6, 0, 16, 1], [5, 0, 15, 1]]), (20, 10), 10, min_visible=0.4)
    assert list(zip(tiles.window_index.tolist(), tiles.box_index.tolist())) == [
        (0, 1),
        (1, 0),
        (1, 1),
    ]
    assert tiles.boxes.tolist() == [[5, 0, 10, 1], [0, 0, 6, 1], [0, 0, 5, 1]]


def test_an_image_without_boxes_has_empty_tiles():
    tiles = tile_boxes(np.zeros((0, 4)), (20, 10), 10)
    assert tiles.windows.shape == (2, 4)
    assert tiles.boxes.shape == (0, 4)
    assert tiles.window_index.shape == tiles.box_index.shape == (0,)


@pytest.mark.parametrize("bad", [(0, 0), (8, 8), (8, -1), (-8, 0)])
def test_impossible_tiles_are_refused(bad):
    with pytest.raises(ValueError, match="overlap < tile"):
        tile_boxes(np.zeros((0, 4)), (20, 10), *bad)


def test_boxes_are_read_as_given():
    size, boxes = neon_trees._parse_voc(voc_xml((30, 20), [(1, 2, 11, 7.5), (0, 0, 30, 20)]))
    assert size == (30, 20)
    assert boxes.tolist() == [[1, 2, 11, 7.5], [0, 0, 30, 20]]
    assert neon_trees._parse_voc(voc_xml((30, 20), []))[1].shape == (0, 4)


@pytest.mark.parametrize(
    "xml, message",
    [
        (voc_xml((9, 9), [(1, 1, 2, 2)], name="Car"), r"\['Car'\]"),
        (voc_xml((9, 9), [(1, 1, 1, 2)]), "empty"),
        (voc_xml((9, 9), [(1, 1, 2, 2)]).replace(b"xmin", b"left"), "lacks a corner"),
    ],
)
def test_unexpected_objects_are_refused(xml, message):
    with pytest.raises(ValueError, match=message):
        neon_trees._parse_voc(xml)


def test_a_missing_or_unfitting_member_is_named(tmp_path):
    xml = f"deepforest/data/{neon_trees._OSBS}.xml"
    source, _ = make_wheel(tmp_path / "a" / "downloads", lambda members: members.pop(xml))
    with pytest.raises(ValueError, match=xml):
        prepare_neon_trees(tmp_path / "a", source=source)

    def enlarge(members):
        members[xml] = voc_xml((41, 50), [])

    source, _ = make_wheel(tmp_path / "b" / "downloads", enlarge)
    with pytest.raises(ValueError, match=r"\(41, 50\).*\(40, 50\)"):
        prepare_neon_trees(tmp_path / "b", source=source)
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["downloads"]


def test_wrong_arguments_cost_no_download(tmp_path):
    with pytest.raises(ValueError, match="overlap < tile"):
        prepare_neon_trees(tmp_path, train_tile=64, train_overlap=64)


@pytest.mark.parametrize("dataset", DATASETS)
def test_datasets_load_in_detectron2(prepared, dataset):
    _, home, _ = prepared
    records = load_coco_json(home / "annotations" / f"{dataset}.json", home / DATASETS[dataset])
    assert sum(len(r["annotations"]) for r in records) > 0
    for record in records:
        with Image.open(record["file_name"]) as image:
            assert image.size == (record["width"], record["height"])
            assert image.mode == "RGB"
        for annotation in record["annotations"]:
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= record["width"]
            assert 0 <= y < y + h <= record["height"]


def test_annotations_are_cocos(prepared):
    _, home, _ = prepared
    coco = read_coco(home, "train")
    assert coco["categories"] == [{"id": 1, "name": "tree"}]
    credit = json.dumps([coco["info"], coco["licenses"]])
    assert all(word in credit for word in ("National Ecological", "Weinstein", "CC0 1.0", "MIT"))
    assert [image["id"] for image in coco["images"]] == list(range(1, 1 + len(coco["images"])))
    annotations = coco["annotations"]
    assert len({a["id"] for a in annotations}) == len(annotations)
    for a in annotations:
        assert set(a) == {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
        assert a["area"] == a["bbox"][2] * a["bbox"][3]
        assert all(isinstance(v, float) for v in [*a["bbox"], a["area"]])
        assert (a["category_id"], a["iscrowd"]) == (1, 0)


@pytest.mark.parametrize(
    "dataset, stem, tile, overlap",
    [
        ("train", neon_trees._TRAIN, 40, 20),
        ("val", neon_trees._VAL, 256, 0),
        ("osbs", neon_trees._OSBS, 50, 0),
        ("val_whole", neon_trees._VAL, 300, 0),
    ],
)
def test_pixels_and_boxes_are_those_of_the_image(prepared, dataset, stem, tile, overlap):
    _, home, images = prepared
    pixels, boxes = images[stem]
    windows, found = slow_tiles(boxes.tolist(), SIZES[stem], tile, overlap, 0.4)
    coco = read_coco(home, dataset)
    assert len(coco["images"]) == len(windows)
    for image, (x0, y0, x1, y1) in zip(coco["images"], windows):
        with Image.open(home / DATASETS[dataset] / image["file_name"]) as saved:
            np.testing.assert_array_equal(np.asarray(saved), pixels[y0:y1, x0:x1])
    written = [(a["image_id"] - 1, *a["bbox"]) for a in coco["annotations"]]
    assert written == [(w, a, b, c - a, d - b) for w, _, a, b, c, d in found]


def test_a_complete_folder_is_left_alone(prepared, monkeypatch):
    prepare, home, _ = prepared
    monkeypatch.setattr(neon_trees, "fetch_wheel", None)
    monkeypatch.setattr(neon_trees, "_build", None)
    assert prepare() == home
    assert sorted(p.name for p in home.parent.iterdir()) == ["downloads", "neon_trees"]


def delete_annotations(home):
    (home / "annotations" / "val.json").unlink()


def damage_annotations(home):
    (home / "annotations" / "val.json").write_text("{")


def delete_image(home):
    next((home / "images" / "train").iterdir()).unlink()


def delete_stamp(home):
    (home / "stamp.txt").unlink()


def damage_stamp(home):
    (home / "stamp.txt").write_text("0" * 64)


def as_version_0_1(home):
    (home / "stamp.txt").rename(home / "manifest.json")


@pytest.mark.parametrize(
    "damage",
    [
        delete_annotations,
        damage_annotations,
        delete_image,
        delete_stamp,
        damage_stamp,
        as_version_0_1,
    ],
)
def test_a_damaged_folder_is_made_again_and_the_old_one_kept(prepared, damage, caplog):
    prepare, home, _ = prepared
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}
    damage(home)
    with caplog.at_level(logging.WARNING):
        prepare()
    assert "kept as" in caplog.text and "neon_trees.old1" in caplog.text
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    names = ["downloads", "neon_trees", "neon_trees.old1"]
    assert sorted(p.name for p in home.parent.iterdir()) == names
    caplog.clear()
    prepare()
    assert caplog.text == ""


def test_other_parameters_make_it_again(prepared):
    prepare, home, _ = prepared
    before = len(read_coco(home, "train")["images"])
    prepare(train_tile=60, train_overlap=0)
    assert len(read_coco(home, "train")["images"]) == 4 < before


def test_files_of_the_user_are_kept(prepared):
    prepare, home, _ = prepared
    for i in (1, 2):
        (home / "images" / "mine.txt").write_text(str(i))
        prepare()
        assert (home / "images" / "mine.txt").exists()  # a complete folder may hold more
        (home / "annotations" / "val.json").unlink()
        prepare()
        kept = home.parent / f"neon_trees.old{i}" / "images" / "mine.txt"
        assert kept.read_text() == str(i)
    assert not (home / "images" / "mine.txt").exists()


def test_a_link_to_another_disk_stays_one(prepared, tmp_path):
    prepare, home, _ = prepared
    elsewhere = tmp_path / "disk" / "trees"
    elsewhere.parent.mkdir()
    home.rename(elsewhere)
    home.symlink_to(elsewhere)
    (elsewhere / "annotations" / "val.json").unlink()
    prepare()
    assert home.is_symlink()
    assert (elsewhere / "annotations" / "val.json").exists()
    assert sorted(p.name for p in elsewhere.parent.iterdir()) == ["trees", "trees.old1"]


def test_an_interrupted_build_leaves_what_was_there(prepared, monkeypatch):
    prepare, home, _ = prepared
    before = {p: p.read_bytes() for p in home.rglob("*") if p.is_file()}

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(neon_trees, "_coco", interrupt)
    with pytest.raises(KeyboardInterrupt):
        prepare(train_tile=60)
    assert {p: p.read_bytes() for p in home.rglob("*") if p.is_file()} == before
    assert sorted(p.name for p in home.parent.iterdir()) == ["downloads", "neon_trees"]


def test_registration_reads_nothing_and_happens_once(tmp_path, monkeypatch):
    for dataset in DATASETS:
        monkeypatch.delitem(DatasetCatalog.data, f"neon_trees_{dataset}", raising=False)
        monkeypatch.delitem(MetadataCatalog.data, f"neon_trees_{dataset}", raising=False)
    root = tmp_path / "not there"
    register_neon_trees(root)
    register_neon_trees(tmp_path / "ignored")
    assert not root.exists()
    for dataset, folder in DATASETS.items():
        metadata = MetadataCatalog.get(f"neon_trees_{dataset}")
        assert metadata.thing_classes == ["tree"]
        assert metadata.evaluator_type == "coco"
        home = root / "neon_trees"
        assert metadata.json_file == str(home / "annotations" / f"{dataset}.json")
        assert metadata.image_root == str(home / folder)


def test_registered_datasets_load_once_prepared(prepared, monkeypatch):
    _, home, _ = prepared
    for dataset in DATASETS:
        monkeypatch.delitem(DatasetCatalog.data, f"neon_trees_{dataset}", raising=False)
        monkeypatch.delitem(MetadataCatalog.data, f"neon_trees_{dataset}", raising=False)
    register_neon_trees(home.parent)
    assert len(DatasetCatalog.get("neon_trees_val")) == 4
    assert MetadataCatalog.get("neon_trees_val").thing_classes == ["tree"]


@pytest.mark.slow
def test_the_real_package_gives_the_known_counts(tmp_path):
    def counts(home):
        loaded = {name: read_coco(home, name) for name in DATASETS}
        return {k: (len(c["images"]), len(c["annotations"])) for k, c in loaded.items()}

    fixed = {"val": (25, 293), "osbs": (1, 61), "val_whole": (1, 279)}
    home = prepare_neon_trees(tmp_path)
    assert counts(home) == {"train": (72, 2048), **fixed}
    train = read_coco(prepare_neon_trees(tmp_path, train_tile=256, train_overlap=0), "train")
    assert counts(home) == {"train": (90, 607), **fixed}
    assert len({a["image_id"] for a in train["annotations"]}) == 78  # 12 are empty
