import csv
import io
import json
import os
import sys

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from engine.tiny import tiny_overrides
from PIL import Image
from pycocotools.coco import COCO

import fcos_d2
from fcos_d2 import cli, detect
from fcos_d2.detect import _ahead, find_sources, run_detection
from fcos_d2.predictor import Predictor

RNG = np.random.default_rng(0)
GOOD = ["below/deep.png", "deep16.png", "gray.png", "photo.jpg", "pixel.png", "plain.png"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder like one that training leaves, of a random model with strong detections."""
    folder = tmp_path_factory.mktemp("model")
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.merge_from_list(tiny_overrides("unused", **{"INPUT.MAX_SIZE_TEST": 100}))
    torch.manual_seed(0)
    net = build_model(cfg)
    for conv in (net.head.cls_logits, net.head.bbox_pred):
        torch.nn.init.normal_(conv.weight, std=0.2)
    (folder / "config.yaml").write_text(cfg.dump())
    names = ["cat", "dog", "owl"]
    checkpoint = {"model": net.state_dict(), "class_names": names}
    torch.save(checkpoint, folder / "model_final.pth")
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor.from_pretrained(model, device="cpu", score_threshold=0.3)


def noise(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path):
    """Six pictures, two broken ones, and a text that is none of our business."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(50, 70)).save(folder / "plain.png")
    Image.fromarray(noise(40, 90)).save(folder / "photo.jpg", exif=exif)
    Image.fromarray(noise(60, 60)[..., 0]).save(folder / "gray.png")
    Image.fromarray(noise(60, 60)[..., 0].astype(np.uint16) * 257).save(folder / "deep16.png")
    Image.fromarray(noise(1, 1)).save(folder / "pixel.png")
    Image.fromarray(noise(64, 64)).save(folder / "below" / "deep.png")
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:-900])
    (folder / "text.jpg").write_text("I am text")
    (folder / "notes.txt").write_text("ignore me")
    (folder / ".hidden.png").write_text("ignore me, too")
    return folder


def run(photos, model, output, *more):
    words = ["detect", str(photos), "--model", str(model), "--output", str(output), "--recursive"]
    return cli.main([*words, "--device", "cpu", *more])


def lines_of(output):
    return [json.loads(line) for line in (output / "detections.jsonl").read_text().splitlines()]


def contents(output):
    """All files below a folder, by name."""
    files = (path for path in output.rglob("*") if path.is_file())
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in files}


# The whole command


def test_good_files_give_results_and_broken_ones_a_reason(photos, model, tmp_path, capsys):
    assert run(photos, model, tmp_path / "out", "--format", "json,jsonl,csv") == 1
    captured = capsys.readouterr()
    errors = captured.err.splitlines()
    assert len(errors) == 2
    assert "cut.jpg cannot be read: image file is truncated" in errors[0]
    assert "text.jpg cannot be read: it is no picture" in errors[1]
    assert "6 images" in captured.out
    assert "2 failures" in captured.out

    lines = lines_of(tmp_path / "out")
    assert [line["file"] for line in lines] == GOOD
    drawn = tmp_path / "out" / "pictures"
    assert sorted(p.relative_to(drawn).as_posix() for p in drawn.rglob("*.*")) == GOOD
    photo = next(line for line in lines if line["file"] == "photo.jpg")
    assert photo["image_size"] == [90, 40]  # upright
    with Image.open(drawn / "photo.jpg") as picture:
        assert picture.size == (40, 90)
        assert not picture.getexif()
    found = Predictor.from_pretrained(model, device="cpu", score_threshold=0.3)
    assert photo["boxes"] == found(photos / "photo.jpg").to_dict()["boxes"] != []
    assert min(score for line in lines for score in line["scores"]) >= 0.3


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
    assert "no pictures or videos in this folder" in capsys.readouterr().err
    assert run(photos / "plain.png", tmp_path / "nothing", tmp_path / "c") == 2
    assert "no config.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--format", "xml"], "unknown format 'xml', expected some of json"),
        (["--threshold", "30"], "threshold must be from 0 to 1"),
        (["--batch-size", "0"], "batch size must be at least 1"),
        (["--precision", "fp16"], "fp16 does not work on the CPU"),
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


def test_without_pictures_none_are_drawn(photos, model, tmp_path):
    run(photos, model, tmp_path / "out", "--no-pictures", "--format", "jsonl")
    assert list(contents(tmp_path / "out")) == ["detections.jsonl"]


# Inputs


def test_a_folder_gives_its_pictures_and_with_recursive_those_below(photos):
    flat, _ = find_sources([str(photos)])
    deep, _ = find_sources([str(photos)], recursive=True)
    assert {s.name for s in deep} - {s.name for s in flat} == {"below/deep.png"}
    assert {s.name for s in flat} == {*GOOD[1:], "cut.jpg", "text.jpg"}


def test_files_folders_and_patterns_mix_and_each_file_comes_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    inputs = ["plain.png", "*.png", "below", "**/deep*.png", "missing.png", "*.gif"]
    sources, problems = find_sources(inputs)
    names = [s.name for s in sources]
    assert names == ["plain.png", "deep16.png", "gray.png", "pixel.png", "deep.png"]
    assert problems == ["missing.png: no such file or folder", "*.gif: no file matches"]


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise(4, 4)).save(tmp_path / folder / "x.png")
    sources, _ = find_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [s.name for s in sources] == ["a/x.png", "b/x.png"]


def test_drawn_pictures_are_no_input_of_the_next_run(photos, model):
    run(photos, model, photos)
    before = contents(photos)
    run(photos, model, photos)
    assert contents(photos) == before
    assert len(lines_of(photos)) == 6


# Interruption


@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_an_interrupted_run_goes_on_to_the_same_files(photos, predictor, tmp_path, stop_after):
    sources, _ = find_sources([str(photos)], recursive=True)
    formats = ("json", "csv")
    run_detection(predictor, sources, tmp_path / "whole", formats=formats)

    def stop(done, total):
        assert total == 8
        if done == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_detection(predictor, sources, tmp_path / "parts", formats=formats, on_result=stop)
    lines = tmp_path / "parts" / "detections.jsonl"
    assert len(lines.read_text().splitlines()) == stop_after
    with open(lines, "a") as file:
        file.write('{"file": "pixel.png", "siz')  # killed while writing
    summary = run_detection(predictor, sources, tmp_path / "parts", formats=formats)
    assert summary.reused == stop_after
    assert summary.pictures == 6 - stop_after
    assert len(summary.failures) == 2
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_ctrl_c_ends_with_a_hint_and_status_130(photos, model, tmp_path, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(detect, "run_detection", interrupt)
    assert run(photos, model, tmp_path) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_a_finished_run_does_nothing_again(photos, predictor, tmp_path):
    sources, _ = find_sources([str(photos)])
    run_detection(predictor, sources, tmp_path)
    before = contents(tmp_path)
    again = run_detection(predictor, sources, tmp_path)
    assert (again.reused, again.pictures) == (5, 0)
    assert contents(tmp_path) == before


def test_what_changed_is_detected_again(photos, model, predictor, tmp_path):
    def work(predictor, **options):
        sources, _ = find_sources([str(photos)])
        notes = []
        made = run_detection(predictor, sources, tmp_path, report=notes.append, **options)
        return made.pictures, any("are replaced" in note for note in notes)

    assert work(predictor) == (5, False)
    Image.fromarray(noise(30, 30)).save(photos / "plain.png")
    assert work(predictor) == (1, True)
    os.utime(photos / "gray.png", (1e9, 1e9))
    assert work(predictor) == (1, True)
    (tmp_path / "pictures" / "photo.jpg").unlink()
    assert work(predictor, pictures=False) == (0, False)
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
    run_detection(predictor, find_sources([str(photos)])[0], tmp_path)
    Image.fromarray(noise(30, 30)).save(photos / "cut.jpg")
    run_detection(predictor, find_sources([str(photos)])[0], tmp_path)
    names = [line["file"] for line in lines_of(tmp_path)]
    assert names == sorted([*GOOD[1:], "cut.jpg"])


# Threads


def test_reading_runs_ahead_by_a_bounded_number():
    started = []
    with detect._threads(2) as pool:
        results = _ahead(pool, lambda i: started.append(i) or i, range(1000), depth=5)
        assert [next(results)[1].result() for _ in range(10)] == list(range(10))
    assert 10 <= len(started) <= 16


def test_a_picture_that_cannot_be_saved_fails_alone(photos, predictor, tmp_path, monkeypatch):
    save = detect._save_picture

    def fail_once(picture, path):
        if path.name == "gray.png":
            raise OSError("encoder error")
        save(picture, path)

    monkeypatch.setattr(detect, "_save_picture", fail_once)
    sources, _ = find_sources([str(photos / name) for name in GOOD])
    summary = run_detection(predictor, sources, tmp_path, batch_size=2)
    assert len(summary.failures) == 1
    assert "gray.png cannot be drawn: encoder error" in summary.failures[0]
    assert len(lines_of(tmp_path)) == 5


# Videos


def write_video(path, frames=7, suffix="MJPG"):
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*suffix), 12, (64, 48))
    for i in range(frames):
        video.write(np.full((48, 64, 3), 30 * i, np.uint8))
    video.release()


def read_video(path):
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames, video.get(cv2.CAP_PROP_FPS)


def test_a_video_gives_a_line_for_each_frame_and_a_drawn_video(photos, model, tmp_path):
    write_video(photos / "clip.avi")
    (photos / "broken.mp4").write_text("no video")
    assert run(photos, model, tmp_path, "--batch-size", "3", "--format", "json,csv") == 1
    frames = [line for line in lines_of(tmp_path) if line["file"] == "clip.avi"]
    assert [line["frame"] for line in frames] == list(range(7))
    assert [line["last_frame"] for line in frames] == [False] * 6 + [True]
    assert {tuple(line["image_size"]) for line in frames} == {(48, 64)}
    drawn, rate = read_video(tmp_path / "pictures" / "clip.avi")
    assert len(drawn) == 7
    assert rate == 12
    images = json.loads((tmp_path / "images.json").read_text())["images"]
    assert [i["frame"] for i in images if i["file_name"] == "clip.avi"] == list(range(7))
    assert not list(tmp_path.rglob("*.part*"))


def test_an_interrupted_video_starts_over_and_ends_the_same(photos, predictor, tmp_path):
    write_video(photos / "clip.avi")
    sources, _ = find_sources([str(photos / "plain.png"), str(photos / "clip.avi")])
    run_detection(predictor, sources, tmp_path / "whole")

    def stop(done, total):
        assert total is None
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_detection(predictor, sources, tmp_path / "parts", on_result=stop)
    assert not (tmp_path / "parts" / "pictures" / "clip.avi").exists()
    notes = []
    summary = run_detection(predictor, sources, tmp_path / "parts", report=notes.append)
    assert (summary.reused, summary.pictures, notes) == (1, 7, [])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run_detection(predictor, sources, tmp_path / "parts").reused == 2


def test_without_opencv_only_videos_fail(photos, predictor, tmp_path, monkeypatch):
    (photos / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    sources, _ = find_sources([str(photos / "plain.png"), str(photos / "clip.mp4")])
    summary = run_detection(predictor, sources, tmp_path)
    assert len(summary.failures) == 1
    assert "clip.mp4: videos need OpenCV" in summary.failures[0]
    assert summary.pictures == 1
