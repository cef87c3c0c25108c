"""Datasets registered from plain dicts."""

import json
import os
import pickle
import threading

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from PIL import Image

import fcos_d2
from fcos_d2.data.datasets import custom
from fcos_d2.data.datasets.custom import register_custom


@pytest.fixture(autouse=True)
def forgotten():
    """Unregister the datasets that a test registered."""
    before = [set(catalog.list()) for catalog in (DatasetCatalog, MetadataCatalog)]
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before):
        for name in set(catalog.list()) - names:
            catalog.remove(name)


@pytest.fixture
def yolo(tmp_path):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    Image.new("RGB", (40, 20)).save(tmp_path / "images/a.png")
    (tmp_path / "labels/a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    return {"name": "my_yolo", "yolo": str(tmp_path / "data.yaml"), "split": "train"}


@pytest.fixture
def coco(tmp_path):
    (tmp_path / "photos").mkdir()
    content = {
        "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 20}],
        "annotations": [
            {"id": 1, "image_id": 5, "category_id": 9, "bbox": [1, 2, 3, 4], "iscrowd": 0}
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    images = str(tmp_path / "photos")
    return {"name": "my_coco", "json": str(tmp_path / "train.json"), "images": images}


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / part).mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(root / "JPEGImages/a.jpg")
    (root / "ImageSets/Main/train.txt").write_text("a\n")
    (root / "Annotations/a.xml").write_text(
        "<annotation><size><width>40</width><height>20</height></size><object><name>dog</name>"
        "<difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax>"
        "<ymax>10</ymax></bndbox></object></annotation>"
    )
    return {"name": "my_voc", "voc": str(root), "split": "train"}


def test_coco_is_registered_as_it_is(coco, tmp_path):
    assert register_custom([coco], tmp_path / "cache") == ["my_coco"]
    metadata = MetadataCatalog.get("my_coco")
    assert metadata.json_file == coco["json"] and metadata.image_root == coco["images"]
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["cat", "dog"]
    (record,) = DatasetCatalog.get("my_coco")
    assert record["file_name"] == os.path.join(coco["images"], "a.png")
    assert record["annotations"][0]["category_id"] == 1
    assert metadata.thing_dataset_id_to_contiguous_id == {7: 0, 9: 1}
    assert not (tmp_path / "cache").exists()


def test_yolo_and_voc_become_coco(yolo, voc, tmp_path):
    register_custom([yolo, {**voc, "difficult": "ignore"}], tmp_path / "cache")
    (record,) = DatasetCatalog.get("my_yolo")
    assert record["file_name"] == str(tmp_path / "images/a.png")
    assert record["annotations"][0]["bbox"] == [10, 5, 20, 10]
    assert MetadataCatalog.get("my_yolo").thing_classes == ["cat", "dog"]
    (record,) = DatasetCatalog.get("my_voc")
    assert (record["width"], record["height"]) == (40, 20)
    assert record["annotations"][0]["bbox"] == [0, 0, 10, 10]
    assert record["annotations"][0]["iscrowd"] == 1
    assert os.path.dirname(MetadataCatalog.get("my_voc").json_file) == str(tmp_path / "cache")


def test_the_evaluator_gives_ap_100_to_the_ground_truth_of_a_conversion(yolo, voc, tmp_path):
    for name in register_custom([yolo, voc], tmp_path / "cache"):
        evaluator = COCOEvaluator(name, ("bbox",), False, use_fast_impl=False)
        evaluator.reset()
        for record in DatasetCatalog.get(name):
            x, y, width, height = record["annotations"][0]["bbox"]
            instances = Instances(
                (record["height"], record["width"]),
                pred_boxes=Boxes(torch.tensor([[x, y, x + width, y + height]])),
                scores=torch.ones(1),
                pred_classes=torch.tensor([record["annotations"][0]["category_id"]]),
            )
            evaluator.process([record], [{"instances": instances}])
        assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_specs_of_the_config_are_taken(coco, tmp_path):
    cfg = fcos_d2.get_cfg()
    assert cfg.DATASETS.CUSTOM == []
    (tmp_path / "my.yaml").write_text(json.dumps({"VERSION": 2, "DATASETS": {"CUSTOM": [coco]}}))
    cfg.merge_from_file(str(tmp_path / "my.yaml"))
    cfg.merge_from_list(["DATASETS.CUSTOM", str([*cfg.DATASETS.CUSTOM, {**coco, "name": "two"}])])
    assert register_custom(cfg.DATASETS.CUSTOM, tmp_path) == ["my_coco", "two"]
    assert "two" in cfg.dump()


def test_relative_paths_are_relative_to_the_current_folder(coco, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    register_custom([{**coco, "json": "train.json", "images": "photos/"}], "cache")
    monkeypatch.chdir("/")
    assert len(DatasetCatalog.get("my_coco")) == 1
    register_custom([coco], "cache")  # the same one


def test_registering_the_same_again_changes_nothing(coco, yolo, tmp_path, monkeypatch):
    register_custom([coco, yolo, dict(coco)], tmp_path / "cache")
    loader = DatasetCatalog["my_yolo"]
    monkeypatch.setattr(custom, "read_yolo", None)  # would be called to convert
    monkeypatch.setattr(custom, "coco_classes", None)
    register_custom([yolo, coco], tmp_path / "cache")
    assert DatasetCatalog["my_yolo"] is loader


def test_a_conversion_is_used_by_the_next_process(yolo, tmp_path, monkeypatch):
    register_custom([yolo], tmp_path / "cache")
    DatasetCatalog.remove("my_yolo")
    MetadataCatalog.remove("my_yolo")
    monkeypatch.setattr(custom, "read_yolo", None)
    register_custom([yolo], tmp_path / "cache")
    assert len(DatasetCatalog.get("my_yolo")) == 1


def test_changed_files_are_converted_and_registered_again(yolo, tmp_path):
    register_custom([yolo], tmp_path / "cache")
    (tmp_path / "labels/a.txt").write_text("0 0.5 0.5 1.0 1.0\n1 0.5 0.5 1.0 1.0\n")
    (tmp_path / "data.yaml").write_text("train: images\nnames: [ant, dog]\n")
    register_custom([yolo], tmp_path / "cache")
    (record,) = DatasetCatalog.get("my_yolo")
    assert [a["bbox"] for a in record["annotations"]] == [[0, 0, 40, 20]] * 2
    assert MetadataCatalog.get("my_yolo").thing_classes == ["ant", "dog"]


def test_another_spec_is_another_conversion(voc, tmp_path):
    register_custom([voc, {**voc, "name": "other", "difficult": "drop"}], tmp_path / "cache")
    (kept,), (dropped,) = DatasetCatalog.get("my_voc"), DatasetCatalog.get("other")
    assert (len(kept["annotations"]), len(dropped["annotations"])) == (1, 0)


def test_many_at_once_leave_one_whole_file(yolo, tmp_path):
    cache, start = tmp_path / "cache", threading.Barrier(8)
    spec = custom._checked(yolo)
    made = []

    def convert():
        start.wait()
        made.append(custom._converted(spec, "0123456789abcdef", cache))

    threads = [threading.Thread(target=convert) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and os.listdir(cache) == [made[0].name]
    assert len(json.loads(made[0].read_text())["annotations"]) == 1


def test_a_failed_conversion_leaves_nothing(yolo, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        register_custom([yolo], tmp_path / "cache")
    assert os.listdir(tmp_path / "cache") == [] and "my_yolo" not in DatasetCatalog


def test_a_registered_loader_can_be_pickled(coco, tmp_path):
    register_custom([coco], tmp_path)
    loader = pickle.loads(pickle.dumps(DatasetCatalog["my_coco"]))
    assert loader == DatasetCatalog["my_coco"] and loader() == DatasetCatalog.get("my_coco")


def test_a_taken_name_is_refused_and_both_are_named(coco, yolo, tmp_path):
    register_custom([coco], tmp_path)
    with pytest.raises(
        ValueError, match=r"'my_coco' is registered already, .*train\.json.*data\.y"
    ):
        register_custom([{**yolo, "name": "my_coco"}], tmp_path)
    with pytest.raises(ValueError, match=r"coco_2017_val.*instances_val2017\.json.*train\.json"):
        register_custom([{**coco, "name": "coco_2017_val"}], tmp_path)
    with pytest.raises(ValueError, match=r"two datasets are called 'x'.*train\.json.*data\.yaml"):
        register_custom([{**coco, "name": "x"}, {**yolo, "name": "x"}], tmp_path)
    MetadataCatalog.get("y").thing_classes = ["bee"]
    with pytest.raises(ValueError, match=r"metadata of y say thing_classes is \['bee'\]"):
        register_custom([{**coco, "name": "y"}], tmp_path)
    assert {"x", "y"}.isdisjoint(DatasetCatalog.list())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"imges": "a"}, "unknown key 'imges' .*; nearest: images"),
        ({"split": "train"}, "unknown key 'split' .*known: name, json, images"),
        ({"voc": "VOC2007"}, "expected one of json, voc, yolo in .*, got 2"),
        ({"json": None}, "json must be a text, got None"),
        ({"name": ""}, "name must be a text"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(coco, tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        register_custom([{**coco, **changes}], tmp_path)


def test_wrong_values_and_missing_keys_of_voc_are_named(voc, tmp_path):
    with pytest.raises(ValueError, match="nearest: ignore"):
        register_custom([{**voc, "difficult": "ignored"}], tmp_path)
    with pytest.raises(ValueError, match="classes must be a list of different names"):
        register_custom([{**voc, "classes": "dog"}], tmp_path)
    with pytest.raises(ValueError, match="no key 'split'"):
        register_custom([{"name": "a", "voc": "b"}], tmp_path)
    with pytest.raises(ValueError, match="keys and values, got 'my_train'"):
        register_custom(["my_train"], tmp_path)


def test_missing_and_malformed_files_name_the_dataset(coco, yolo, voc, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"my_coco: no images /nowhere"):
        register_custom([{**coco, "images": "/nowhere"}], tmp_path)
    (tmp_path / "labels/a.txt").write_text("cat\n")
    with pytest.raises(ValueError, match=r"my_yolo: .*a\.txt, line 1: expected numbers"):
        register_custom([coco, yolo], tmp_path)
    assert "my_coco" not in DatasetCatalog  # all or nothing
    (tmp_path / "VOC2007/JPEGImages/a.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"my_voc: .*no image .*JPEGImages/a"):
        register_custom([voc], tmp_path)
    (tmp_path / "train.json").write_text("{")
    with pytest.raises(ValueError, match=r"my_coco: .*train\.json is not in COCO's format"):
        register_custom([coco], tmp_path)
