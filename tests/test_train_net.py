"""train_net.py as a command."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.tiny import write_dataset

TRAIN_NET = Path(__file__).parents[1] / "train_net.py"
SMALL = ["MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", "64", "SOLVER.IMS_PER_BATCH", "2"]
SMALL += ["SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", "out"]


def write_trees(root):
    """Write a substitute for the quick start's dataset: two images and three trees per split."""
    for split in ("train", "val"):
        images = [
            (
                np.random.default_rng(i).integers(0, 256, (96, 96, 3), dtype=np.uint8),
                [(1, [10 + 40 * j, 20, 30, 40]) for j in range(i + 1)],
            )
            for i in range(2)
        ]
        home = root / "neon_trees"
        json_file, folder = home / "annotations" / f"{split}.json", home / "images" / split
        write_dataset(json_file, folder, images, {1: "tree"})


def train_net(tmp_path, *words):
    return subprocess.run(
        [sys.executable, str(TRAIN_NET), "--config-file", "quick_start.yaml", *words, *SMALL],
        cwd=tmp_path,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_trains_and_evaluates_in_one_and_two_processes(tmp_path, processes):
    write_trees(tmp_path)
    done = train_net(tmp_path, "--num-gpus", str(processes))
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"World size: {processes}" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "out/metrics.json").read_text().splitlines()]
    assert "bbox/AP50" in rows[-1]


def test_missing_data_end_in_one_line_that_says_what_to_do(tmp_path):
    done = train_net(tmp_path)
    assert done.returncode == 1
    assert "make quickstart" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_late_flag_is_rejected(monkeypatch, capsys):
    words = ["--config-file", "quick_start.yaml", "SEED", "1", "--resume", *SMALL]
    monkeypatch.setattr(sys, "argv", [str(TRAIN_NET), *words])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TRAIN_NET), run_name="__main__")
    assert "--resume comes after the KEY VALUE overrides" in capsys.readouterr().err
