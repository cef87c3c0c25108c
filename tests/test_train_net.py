"""train_net.py as a command, in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TRAIN_NET = Path(__file__).parents[1] / "train_net.py"


def write_trees(root):
    """A stand-in for the quick start's data: two pictures, three trees."""
    for split in ("train", "val"):
        folder = root / "neon_trees" / "images" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for i in range(2):
            noise = np.random.default_rng(i).integers(0, 256, (96, 96, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": 96, "height": 96})
            for j in range(i + 1):
                box = [10 + 40 * j, 20, 30, 40]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": box}
                    | {"area": 1200, "iscrowd": 0}
                )
        content = {"info": {}, "images": images, "annotations": annotations}
        path = root / "neon_trees" / "annotations" / f"{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content | {"categories": [{"id": 1, "name": "tree"}]}))


def train_net(tmp_path, *words):
    small = ["MODEL.WEIGHTS", "", "MODEL.FPN.OUT_CHANNELS", "64", "SOLVER.IMS_PER_BATCH", "2"]
    small += ["SOLVER.MAX_ITER", "2", "DATALOADER.NUM_WORKERS", "0", "OUTPUT_DIR", "out"]
    return subprocess.run(
        [sys.executable, str(TRAIN_NET), "--config-file", "quick_start.yaml", *words, *small],
        cwd=tmp_path,
        env={**os.environ, "DETECTRON2_DATASETS": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_trains_and_evaluates_in_so_many_processes(tmp_path, processes):
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


def test_a_late_flag_is_rejected(tmp_path):
    done = train_net(tmp_path, "SEED", "1", "--resume")
    assert done.returncode == 2
    assert "--resume comes after the KEY VALUE overrides" in done.stderr
