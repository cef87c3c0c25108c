import csv
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from support.photos import GOOD, contents, lines_of, noise, run

from fcos_d2.detect import DetectOptions, run_detection
from fcos_d2.detect.sources import find_inputs
from fcos_d2.inference.predictor import Predictor


def test_good_files_give_results_and_broken_ones_a_reason(photos, model, tmp_path, capsys):
    assert run(photos, model, tmp_path / "out", "--format", "json,jsonl,csv") == 1
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == 2
    assert "cut.jpg cannot be read: image file is truncated" in errors[0]
    assert "text.jpg cannot be read: not an image" in errors[1]
    assert "6 images" in captured.out
    assert "2 failures" in captured.out

    lines = lines_of(tmp_path / "out")
    assert [line["file"] for line in lines] == GOOD
    drawn = tmp_path / "out" / "pictures"
    assert sorted(p.relative_to(drawn).as_posix() for p in drawn.rglob("*.*")) == GOOD
    photo = next(line for line in lines if line["file"] == "photo.jpg")
    assert photo["image_size"] == [90, 40]  # upright
    with Image.open(drawn / "photo.jpg") as drawn_image:
        assert drawn_image.size == (40, 90)
        assert not drawn_image.getexif()
    found = Predictor.from_pretrained(model, device="cpu", score_threshold=0.3)
    assert photo["boxes"] == found(photos / "photo.jpg").to_dict()["boxes"] != []
    assert min(score for line in lines for score in line["scores"]) >= 0.3


def test_the_network_is_compiled_when_asked(photos, model, tmp_path, monkeypatch):
    modes = []

    def compile_(function, mode, dynamic):
        return lambda *args: modes.append(mode) or function(*args)

    monkeypatch.setattr(torch, "compile", compile_)
    run(photos / "plain.png", model, tmp_path / "plain")
    assert not modes
    run(photos / "plain.png", model, tmp_path / "fast", "--compile", "reduce-overhead")
    assert modes == ["reduce-overhead"]
    (fast,), (plain,) = (lines_of(tmp_path / name) for name in ("fast", "plain"))
    assert fast["boxes"] == plain["boxes"] != []


def test_an_image_gives_the_same_boxes_in_every_lossless_form(model, tmp_path):
    folder = tmp_path / "forms"
    folder.mkdir()
    upright = np.repeat(noise(60, 80)[..., :1] // 64 * 64, 3, axis=2)  # gray of four shades
    image = Image.fromarray(upright)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    turned.save(folder / "turned.png", exif=exif)
    image.quantize(4).save(folder / "palette.png")
    image.convert("L").save(folder / "gray.tif")
    image.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    image.convert("CMYK").save(folder / "cmyk.tif")
    image.save(folder / "rgb.bmp")
    image.save(folder / "rgb.ppm")
    Image.fromarray(upright[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    assert run(folder, model, tmp_path / "out") == 0
    lines = lines_of(tmp_path / "out")
    assert len(lines) == 8
    for line in lines:
        assert line["image_size"] == [60, 80], line["file"]
        assert line["boxes"] == lines[0]["boxes"] != [], line["file"]
        assert line["scores"] == lines[0]["scores"], line["file"]
    drawn = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert drawn == {line["file"] for line in lines} - {"rgb.ppm"} | {"rgb.ppm.png"}


def test_the_three_formats_say_the_same_and_pycocotools_reads_them(photos, model, tmp_path):
    run(photos, model, tmp_path, "--format", "json,csv")
    lines = lines_of(tmp_path)
    truth = COCO(str(tmp_path / "images.json"))
    results = truth.loadRes(str(tmp_path / "detections.json"))
    assert [image["file_name"] for image in truth.dataset["images"]] == GOOD
    assert truth.loadCats(2)[0]["name"] == "dog"
    with open(tmp_path / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results.anns) == sum(len(line["boxes"]) for line in lines) > 20
    for line, image in zip(lines, truth.dataset["images"]):
        assert [image["height"], image["width"]] == line["image_size"]
        of_image = results.loadAnns(results.getAnnIds(image["id"]))
        of_csv = [row for row in rows if row["file"] == line["file"]]
        for box, class_id, a, row in zip(line["boxes"], line["class_ids"], of_image, of_csv):
            assert a["bbox"] == pytest.approx(
                [*box[:2], box[2] - box[0], box[3] - box[1]], abs=2e-3
            )
            assert a["category_id"] == class_id + 1
            assert [float(row[key]) for key in ("x1", "y1", "x2", "y2")] == box
            assert row["class_name"] == ["cat", "dog", "owl"][class_id]


def test_all_fine_is_status_0_and_nothing_usable_2(photos, model, tmp_path, capsys):
    assert run(photos / "plain.png", model, tmp_path / "a") == 0
    assert run(photos / "text.jpg", model, tmp_path / "b") == 2
    assert json.loads((tmp_path / "b" / "detections.json").read_text()) == []
    (tmp_path / "nothing").mkdir()
    assert run(tmp_path / "nothing", model, tmp_path / "c") == 2
    assert "no images or videos in this folder" in capsys.readouterr().err
    assert run(photos / "plain.png", tmp_path / "nothing", tmp_path / "c") == 2
    assert "no config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--format", "xml"], "unknown format 'xml', expected some of json"),
        (["--threshold", "30"], "threshold must be from 0 to 1"),
        (["--batch-size", "0"], "batch size must be at least 1"),
        (["--precision", "fp16"], "precision fp16 does not work on the CPU"),
        (["--classes", "cat,dgo"], "no class 'dgo'; nearest: dog"),
        (["--weights", "missing.pth"], "no file 'missing.pth'"),
    ],
)
def test_wrong_options_are_named_and_leave_nothing(photos, model, tmp_path, capsys, words, text):
    assert run(photos / "plain.png", model, tmp_path / "out", *words) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_the_classes_asked_for_are_kept(photos, model, tmp_path):
    run(photos / "plain.png", model, tmp_path / "all", "--threshold", "0")
    run(photos / "plain.png", model, tmp_path / "two", "--threshold", "0", "--classes", "dog, owl")
    (every,), (two,) = lines_of(tmp_path / "all"), lines_of(tmp_path / "two")
    assert set(every["class_names"]) == {"cat", "dog", "owl"}
    assert set(two["class_names"]) == {"dog", "owl"}
    kept = [b for b, name in zip(every["boxes"], every["class_names"]) if name != "cat"]
    assert two["boxes"] == kept


def test_no_pictures_draws_nothing(photos, model, tmp_path):
    run(photos, model, tmp_path / "out", "--no-pictures", "--format", "jsonl")
    assert list(contents(tmp_path / "out")) == ["detections.jsonl"]


def test_drawn_images_are_not_inputs_of_the_next_run(photos, model):
    run(photos, model, photos)
    before = contents(photos)
    run(photos, model, photos)
    assert contents(photos) == before
    assert len(lines_of(photos)) == 6


def test_an_image_that_cannot_be_saved_does_not_affect_others(photos, predictor, tmp_path):
    (tmp_path / "pictures" / "gray.png").mkdir(parents=True)  # in the way of the drawn image
    files, _ = find_inputs([str(photos / name) for name in GOOD])
    summary = run_detection(predictor, files, tmp_path, DetectOptions(batch_size=2))
    assert len(summary.failures) == 1
    assert "gray.png cannot be drawn: " in summary.failures[0]
    assert len(lines_of(tmp_path)) == 5


# Interruption


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_an_interrupted_run_continues_to_the_same_files(photos, predictor, tmp_path, stop_after):
    files, _ = find_inputs([str(photos)], recursive=True)
    options = DetectOptions(formats=("json", "csv"))
    run_detection(predictor, files, tmp_path / "whole", options)

    def stop(done, total):
        assert total == 8
        if done == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_detection(predictor, files, tmp_path / "parts", options, on_result=stop)
    lines = tmp_path / "parts" / "detections.jsonl"
    assert len(lines.read_text().splitlines()) == stop_after
    with open(lines, "a") as file:
        file.write('{"file": "pixel.png", "siz')  # killed while writing
    summary = run_detection(predictor, files, tmp_path / "parts", options)
    assert summary.reused == stop_after
    assert summary.images == 6 - stop_after
    assert len(summary.failures) == 2
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_ctrl_c_ends_with_a_hint_and_status_130(photos, model, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "detect", interrupt)
    assert run(photos, model, tmp_path) == 130
    assert "the same command continues" in capsys.readouterr().err


def test_a_finished_run_does_nothing_again(photos, predictor, tmp_path):
    files, _ = find_inputs([str(photos)])
    run_detection(predictor, files, tmp_path)
    before = contents(tmp_path)
    again = run_detection(predictor, files, tmp_path)
    assert (again.reused, again.images) == (5, 0)
    assert contents(tmp_path) == before


def test_what_changed_is_detected_again(photos, model, predictor, tmp_path):
    def work(predictor, **options):
        files, _ = find_inputs([str(photos)])
        notes = []
        options = DetectOptions(**options)
        made = run_detection(predictor, files, tmp_path, options, report=notes.append)
        return made.images, any("are replaced" in note for note in notes)

    assert work(predictor) == (5, False)
    Image.fromarray(noise(30, 30)).save(photos / "plain.png")
    assert work(predictor) == (1, True)
    os.utime(photos / "gray.png", (1e9, 1e9))
    assert work(predictor) == (1, True)
    (tmp_path / "pictures" / "photo.jpg").unlink()
    assert work(predictor, draw=False) == (0, False)
    assert work(predictor)[0] == 1
    assert work(predictor, classes=["cat"]) == (5, True)
    stricter = Predictor.from_pretrained(model, device="cpu", score_threshold=0.4)
    assert work(stricter) == (5, True)
    with torch.no_grad():
        stricter.model.head.cls_logits.bias += 0.1
    assert work(stricter) == (5, True)
    assert work(stricter, batch_size=4) == (0, False)
    (photos / "plain.png").unlink()
    assert work(stricter) == (0, True)
    assert len(lines_of(tmp_path)) == 4


def test_a_repaired_file_takes_its_place_in_the_order(photos, predictor, tmp_path):
    run_detection(predictor, find_inputs([str(photos)])[0], tmp_path)
    Image.fromarray(noise(30, 30)).save(photos / "cut.jpg")
    run_detection(predictor, find_inputs([str(photos)])[0], tmp_path)
    names = [line["file"] for line in lines_of(tmp_path)]
    assert names == sorted([*GOOD[1:], "cut.jpg"])
