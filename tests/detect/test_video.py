import json
import sys

import numpy as np
import pytest
from support.photos import contents, lines_of, read_video, run

from fcos_d2.detect import run_detection
from fcos_d2.detect.sources import find_inputs


def write_video(path, frames=7, suffix="MJPG"):
    cv2 = pytest.importorskip("cv2")
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*suffix), 12, (64, 48))
    for i in range(frames):
        video.write(np.full((48, 64, 3), 30 * i, np.uint8))
    video.release()


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
    files, _ = find_inputs([str(photos / "plain.png"), str(photos / "clip.avi")])
    run_detection(predictor, files, tmp_path / "whole")

    def stop(done, total):
        assert total is None
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_detection(predictor, files, tmp_path / "parts", on_result=stop)
    assert not (tmp_path / "parts" / "pictures" / "clip.avi").exists()
    notes = []
    summary = run_detection(predictor, files, tmp_path / "parts", report=notes.append)
    assert (summary.reused, summary.images, notes) == (1, 7, [])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert run_detection(predictor, files, tmp_path / "parts").reused == 2


def test_without_opencv_only_videos_fail(photos, predictor, tmp_path, monkeypatch):
    (photos / "clip.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "cv2", None)
    files, _ = find_inputs([str(photos / "plain.png"), str(photos / "clip.mp4")])
    summary = run_detection(predictor, files, tmp_path)
    assert len(summary.failures) == 1
    assert "clip.mp4: videos need OpenCV" in summary.failures[0]
    assert summary.images == 1
