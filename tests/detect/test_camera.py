"""Cameras, simulated by an object with the interface of ``cv2.VideoCapture``."""

import itertools
import json
import signal
import time

import numpy as np
import pytest
from support.photos import lines_of, read_video, run

from fcos_d2.detect.sources import find_inputs

cv2 = pytest.importorskip("cv2")


class Camera:
    """Frames of one color each.

    Args:
        frames: number of frames before the camera is unplugged.
        opens: False for a camera that cannot be opened.
        interrupt_at: index of the frame during which the user presses Ctrl-C.
        pause: seconds before each frame.
    """

    def __init__(self, frames=1000, opens=True, interrupt_at=None, pause=0.0):
        self.frames, self.opens, self.interrupt_at, self.pause = frames, opens, interrupt_at, pause
        self.opened, self.given, self.released = [], 0, False

    def __call__(self, number):
        self.opened.append(number)
        self.given, self.released = 0, False
        return self

    def isOpened(self):
        return self.opens

    def get(self, _):
        return 10.0

    def read(self):
        time.sleep(self.pause)
        if self.given == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        if self.given == self.frames:
            return False, None
        self.given += 1
        return True, np.full((48, 64, 3), self.given % 8 * 30, np.uint8)

    def release(self):
        self.released = True


@pytest.fixture
def plug_in(monkeypatch):
    file_or_camera = cv2.VideoCapture

    def plug_in(**options):
        camera = Camera(**options)
        monkeypatch.setattr(
            cv2,
            "VideoCapture",
            lambda which: camera(which) if isinstance(which, int) else file_or_camera(which),
        )
        return camera

    return plug_in


def test_a_camera_gives_the_frames_asked_for_like_a_video(plug_in, model, tmp_path, capsys):
    camera = plug_in()
    out = tmp_path / "out"
    assert run("camera:3", model, out, "--max-frames", "7", "--format", "json,csv") == 0
    assert camera.opened == [3]
    assert camera.released
    assert "7 images" in capsys.readouterr().out
    lines = lines_of(out)
    assert [line["file"] for line in lines] == ["camera3"] * 7
    assert [line["frame"] for line in lines] == list(range(7))
    assert [line["last_frame"] for line in lines] == [False] * 6 + [True]
    assert lines[0]["seconds"] == 0
    assert all(a["seconds"] <= b["seconds"] for a, b in itertools.pairwise(lines))
    drawn, rate = read_video(out / "pictures" / "camera3.mp4")
    assert len(drawn) >= 7
    assert rate == 10
    images = json.loads((out / "images.json").read_text())["images"]
    assert [image["frame"] for image in images] == list(range(7))
    assert (out / "detections.csv").is_file()


def test_ctrl_c_ends_a_camera_as_a_video_ends(plug_in, model, tmp_path):
    plug_in(interrupt_at=12)
    usual = signal.getsignal(signal.SIGINT)
    assert run("camera:0", model, tmp_path, "--batch-size", "2") == 0
    assert signal.getsignal(signal.SIGINT) is usual
    lines = lines_of(tmp_path)
    assert 12 <= len(lines) < 40
    assert [line["last_frame"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert len(read_video(tmp_path / "pictures" / "camera0.mp4")[0]) >= len(lines)
    assert len(json.loads((tmp_path / "images.json").read_text())["images"]) == len(lines)
    assert not list(tmp_path.rglob("*.part*"))


def test_the_drawn_video_of_a_slow_camera_keeps_the_time(plug_in, model, tmp_path):
    plug_in(pause=0.25)  # 4 a second, of 10 that it announces
    assert run("camera:0", model, tmp_path, "--max-frames", "5") == 0
    drawn, rate = read_video(tmp_path / "pictures" / "camera0.mp4")
    assert len(drawn) >= 9
    assert len(drawn) == pytest.approx(lines_of(tmp_path)[-1]["seconds"] * rate, abs=1)


def test_each_run_replaces_what_a_camera_gave_before(plug_in, photos, model, tmp_path, monkeypatch):
    plug_in()
    monkeypatch.chdir(photos)
    both = ["plain.png", "camera:0"]
    assert run(both, model, tmp_path, "--max-frames", "6") == 0
    assert run(both, model, tmp_path, "--max-frames", "3") == 0
    assert [line["file"] for line in lines_of(tmp_path)] == ["plain.png"] + ["camera0"] * 3
    plug_in(opens=False)
    assert run(both, model, tmp_path, "--max-frames", "3") == 1
    assert [line["file"] for line in lines_of(tmp_path)] == ["plain.png"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"opens": False}, "camera:1 cannot be opened: is it plugged in"),
        ({"frames": 0}, "camera:1 gives no images: does another program use it?"),
    ],
)
def test_a_camera_that_does_not_work_is_explained(plug_in, model, tmp_path, capsys, options, said):
    camera = plug_in(**options)
    assert run("camera:1", model, tmp_path) == 2
    assert said in capsys.readouterr().err
    assert camera.released


def test_an_unplugged_camera_leaves_what_it_gave(plug_in, model, tmp_path, capsys):
    plug_in(frames=4)
    assert run("camera:0", model, tmp_path) == 0
    assert len(lines_of(tmp_path)) == 4
    assert "camera:0: no more images after 4 frames" in capsys.readouterr().err


def test_a_number_is_a_camera_unless_a_file_is_called_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1").write_bytes(b"x")
    files, problems = find_inputs(["0", "camera:0", "1", "camera:1", "camera:front"])
    assert [(file.name, file.camera) for file in files] == [
        ("1", None),
        ("camera0", 0),
        ("camera1", 1),
    ]
    assert problems == ["camera:front: no such camera: give its number, such as camera:0"]


@pytest.mark.parametrize(
    ("inputs", "words", "said"),
    [
        (["camera:0", "camera:1"], [], "one camera at a time"),
        (["camera:0"], ["--max-frames", "0"], "at least 1"),
        (["."], ["--max-frames", "9"], "is for a camera"),
    ],
)
def test_what_cannot_be_is_refused(
    photos, model, tmp_path, monkeypatch, capsys, inputs, words, said
):
    monkeypatch.chdir(photos)
    assert run(inputs, model, tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
