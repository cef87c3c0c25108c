"""``fcos-d2 check-data``."""

import numpy as np
import pytest
from PIL import Image

from fcos_d2 import cli


def command(train, *words):
    train.write()
    data = ["--json", train.folder / "data.json", "--images", train.folder / "images"]
    sizes = ["--min-size", 48, "--max-size", 64]
    return cli.main(["check-data", *map(str, [*data, *sizes, *words])])


def test_the_command_ends_with_0_for_clean_and_1_for_faulty_data(train, val, tmp_path, capsys):
    val.write()
    more = ["--val-json", val.folder / "data.json", "--val-images", val.folder / "images"]
    assert command(train, *more) == 0
    output = capsys.readouterr()
    assert "Nothing found" in output.out and "cat" in output.out and output.err == ""
    train.image("empty.png", boxes=())
    assert command(train, *more, "--fast") == 0  # no error
    train.box(1, (5, 5, 0, 0))
    assert command(train, *more, "--pictures", tmp_path / "p") == 1
    output = capsys.readouterr().out
    assert "box_empty" in output and "annotation 3, box [5, 5, 0, 0]" in output
    assert f"2 pictures in {tmp_path / 'p'}" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "val"], "--split and --val-split are for --voc and --yolo"),
        (["--val-json", "a.json"], "--val-json needs --val-images"),
        (["--config", "fcos_R50.yaml"], "nearest"),
        (["--min-size", "100"], "min size <= max size"),
        (["--val-json", "no.json", "--val-images", "."], "no annotation file no.json"),
    ],
)
def test_the_command_ends_with_2_for_unusable_arguments(train, capsys, words, said):
    assert command(train, *words) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1 and error.startswith("check-data: ")


def test_the_command_ends_with_2_for_a_damaged_json_or_config(train, tmp_path, capsys):
    train.content["annotations"][0]["bbox"] = [1, 2, 3]
    assert command(train) == 2
    said = capsys.readouterr().err
    assert "data.json: annotations[0]['bbox'] is [1, 2, 3], expected [x, y, width" in said
    train.content["annotations"][0]["bbox"] = [1, 2, 30, 40]
    (tmp_path / "bad.yaml").write_text("MODEL: {\n")
    assert command(train, "--config", tmp_path / "bad.yaml") == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit) as end:
        cli.main(["check-data"])
    assert end.value.code == 2


def test_the_command_reads_yolo_and_voc(tmp_path, capsys):
    for part in ("images/train", "images/val", "labels/train", "labels/val"):
        (tmp_path / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("train/a", "val/b"):
        noise = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    assert cli.main(["check-data", "--yolo", str(yaml), "--val-split", "val"]) == 0
    assert "Nothing found" in capsys.readouterr().out
    assert cli.main(["check-data", "--yolo", str(yaml), "--split", "test"]) == 2
    assert "no split 'test'" in capsys.readouterr().err
    assert cli.main(["check-data", "--voc", str(tmp_path)]) == 2
    assert "not a Pascal VOC folder" in capsys.readouterr().err
