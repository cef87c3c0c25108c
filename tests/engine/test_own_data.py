"""Data sets named on the command line or in the config, and nothing registered in code."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from support.tiny import tiny_overrides, write_coco

from fcos_d2.engine import main as engine


@pytest.fixture(autouse=True)
def forget():
    """The catalogs are those of the process."""
    before = set(DatasetCatalog.list())
    yield
    for name in set(DatasetCatalog.list()) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def parse(output, *flags, **changes):
    overrides = dict(zip(*[iter(tiny_overrides(output, **changes))] * 2, strict=True))
    for key in ("DATASETS.TRAIN", "DATASETS.TEST", "MODEL.FCOS.NUM_CLASSES"):
        if key not in changes:
            del overrides[key]
    words = [word for pair in overrides.items() for word in pair]
    return engine.make_parser().parse_args(
        ["--config-file", "fcos_R_50_FPN_1x.yaml", *flags, *words]
    )


def test_coco_files_on_the_command_line_train_and_evaluate(tmp_path):
    path = write_coco(tmp_path / "data")
    images = str(tmp_path / "data" / "images")
    flags = ["--train-json", str(path), "--train-images", images]
    flags += ["--val-json", str(path), "--val-images", images]
    results = engine.main(parse(tmp_path / "output", *flags))
    assert {"AP", "AP-class 3", "AP-class 7", "AP-class 90"} <= set(results["bbox"])
    saved = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    assert saved["class_names"] == ["class 3", "class 7", "class 90"]
    assert len(saved["model"]["head.cls_logits.bias"]) == 3
    words = ["--eval-only", "--config-file", str(tmp_path / "output" / "config.yaml")]
    words += ["MODEL.WEIGHTS", str(tmp_path / "output" / "model_final.pth")]
    again = engine.make_parser().parse_args(words)
    assert engine.main(again)["bbox"].keys() == results["bbox"].keys()


def test_without_a_test_set_training_evaluates_nothing(tmp_path):
    path = write_coco(tmp_path / "data")
    flags = ["--train-json", str(path), "--train-images", str(tmp_path / "data" / "images")]
    assert not engine.main(parse(tmp_path / "output", *flags))
    assert (tmp_path / "output" / "model_final.pth").exists()


def test_a_yolo_folder_on_the_command_line(tmp_path):
    write_coco(tmp_path / "coco")
    for split in ("train", "val"):
        (tmp_path / "labels" / split).mkdir(parents=True)
        images = tmp_path / "images" / split
        images.mkdir(parents=True)
        for path in (tmp_path / "coco" / "images").iterdir():
            (images / path.name).write_bytes(path.read_bytes())
            label = tmp_path / "labels" / split / f"{path.stem}.txt"
            label.write_text("1 0.5 0.5 0.4 0.5\n0 0.3 0.3 0.3 0.4\n")
    (tmp_path / "data.yaml").write_text(
        f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n"
    )
    results = engine.main(parse(tmp_path / "output", "--yolo", str(tmp_path / "data.yaml")))
    assert {"AP-cat", "AP-dog"} <= set(results["bbox"])
    saved = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)
    assert saved["class_names"] == ["cat", "dog"]


def test_data_in_the_config(tmp_path):
    path = write_coco(tmp_path / "data")
    spec = {"name": "mine", "json": str(path), "images": str(tmp_path / "data" / "images")}
    args = parse(
        tmp_path / "output",
        "--num-classes",
        "auto",
        "--skip-test",
        **{"DATASETS.CUSTOM": json.dumps([spec]), "DATASETS.TRAIN": "('mine',)"},
    )
    engine.main(args)
    assert (tmp_path / "output" / "model_final.pth").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train-json", "a.json"], "--train-json and --train-images belong together"),
        (["--val-images", "b"], "--val-json and --val-images belong together"),
        (["--yolo", "a", "--train-json", "b", "--train-images", "c"], "in one format"),
    ],
)
def test_incomplete_or_mixed_data_is_refused(tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        engine.main(parse(tmp_path / "output", *flags))


def test_a_missing_file_is_named(tmp_path):
    flags = ["--train-json", str(tmp_path / "no.json"), "--train-images", str(tmp_path)]
    with pytest.raises(FileNotFoundError, match=r"no\.json"):
        engine.main(parse(tmp_path / "output", *flags))


def test_the_number_of_classes_is_a_number_or_auto(tmp_path, capsys):
    with pytest.raises(SystemExit):
        engine.make_parser().parse_args(["--num-classes", "some"])
    assert "neither a number nor auto" in capsys.readouterr().err
