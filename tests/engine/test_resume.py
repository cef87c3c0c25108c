"""A run that was stopped and resumed equals one that was not."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support.tiny import tiny_overrides, write_coco

from fcos_d2.checkpoint.checkpointer import FCOSCheckpointer
from fcos_d2.engine import main as engine

ROOT = Path(__file__).parents[2]
LONG = {
    "SOLVER.MAX_ITER": 7,
    "SOLVER.CHECKPOINT_PERIOD": 2,
    "SOLVER.EMA.ENABLED": True,
    "MODEL.FCOS.LOSS_NORMALIZER_CLS": "moving_fg",
    "DATALOADER.NUM_WORKERS": 1,
    "INPUT.MIN_SIZE_TRAIN": "(48, 64, 80)",
}


def run(output, *flags, **changes):
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml", "--skip-test", *flags]
    words += tiny_overrides(output, **{**LONG, **changes})
    return engine.make_trainer(engine.make_parser().parse_args(words))


def saved(output, name="model_final.pth"):
    return torch.load(output / name, weights_only=True)


def assert_equal(a, b, where=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, tiny):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole).train()
    stopped = run(parts)
    stopped._trainer.run_step = stop_after(stopped._trainer, 5)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert (parts / "last_checkpoint").read_text() == "model_0000003.pth"
    run(parts, "--resume").train()
    a, b = saved(whole), saved(parts)
    for key in ("model", "trainer", "ema"):
        assert_equal(a[key], b[key], key)
    assert a["iteration"] == b["iteration"] == 6


def test_a_random_seed_is_remembered(tmp_path, tiny):
    first = run(tmp_path, SEED=-1, **{"SOLVER.MAX_ITER": 2})
    first.train()
    trainer = run(tmp_path, "--resume", SEED=-1)
    assert trainer.seed == trainer._trainer.data_loader.seed == first.seed
    assert trainer._trainer.data_loader.start == trainer.start_iter == 2
    assert run(tmp_path / "other", SEED=-1).seed != trainer.seed


def test_averages_start_from_the_weights_that_a_run_without_them_left(tmp_path, tiny):
    run(tmp_path, **{"SOLVER.MAX_ITER": 2, "SOLVER.EMA.ENABLED": False}).train()
    trainer = run(tmp_path, "--resume")
    expected = saved(tmp_path)["model"]
    assert all(torch.equal(value, expected[key]) for key, value in trainer.ema.average.items())


def stop_after(step, count):
    """Like Ctrl-C in the middle of a step."""
    original, done = step.run_step, [0]

    def run_step():
        if done[0] == count:
            raise KeyboardInterrupt
        done[0] += 1
        original()

    return run_step


def test_a_process_killed_while_it_writes_a_checkpoint_leaves_the_last_one(tmp_path):
    write_coco(tmp_path / "data")
    output = tmp_path / "output"
    script = tmp_path / "killed.py"
    script.write_text(KILLED_WHILE_WRITING)
    words = tiny_overrides(output, **LONG)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "data"), *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9, done.stderr[-2000:]
    assert (output / "last_checkpoint").read_text() == "model_0000001.pth"
    assert saved(output, "model_0000001.pth")["iteration"] == 1
    assert not (output / "model_0000003.pth").exists()


KILLED_WHILE_WRITING = """
import os, signal, sys
import torch
from detectron2.data.datasets import register_coco_instances
from fcos_d2.engine import main as engine

data, words = sys.argv[1], sys.argv[2:]
register_coco_instances("tiny", {}, data + "/data.json", data + "/images")
save, count = torch.save, [0]

def save_half(content, file):
    count[0] += 1
    if count[0] == 2:
        file.write(b"half of a checkpoint")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(content, file)

torch.save = save_half
args = ["--config-file", "fcos_R_50_FPN_1x.yaml", "--skip-test", *words]
engine.main(engine.make_parser().parse_args(args))
"""


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = FCOSCheckpointer(model, str(tmp_path))
    checkpointer.save("model_0000001")
    with pytest.raises(Exception, match="lambda"):
        checkpointer.save("model_0000002", unpicklable=lambda: None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    checkpointer.save("model_best")
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")


def test_class_names_travel_with_the_checkpoint(tmp_path, tiny):
    run(tmp_path / "output", **{"SOLVER.MAX_ITER": 1}).train()
    names = ["class 3", "class 7", "class 90"]
    assert saved(tmp_path / "output")["class_names"] == names
    cfg = engine.load_cfg(
        engine.make_parser().parse_args(["--config-file", str(tmp_path / "output" / "config.yaml")])
    )
    assert list(cfg.MODEL.FCOS.CLASS_NAMES) == names


TRAIN = """
import sys
import time
from detectron2.data.datasets import register_coco_instances
from fcos_d2.engine import main as engine

data, words = sys.argv[1], sys.argv[2:]
register_coco_instances("tiny", {}, data + "/data.json", data + "/images")
engine.run(["--config-file", "fcos_R_50_FPN_1x.yaml", "--skip-test", *words])
"""


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(tmp_path):
    write_coco(tmp_path / "data", num_images=6)
    (tmp_path / "train.py").write_text(TRAIN)
    options = {**LONG, "SOLVER.MAX_ITER": 240, "SOLVER.CHECKPOINT_PERIOD": 3}

    def start(output):
        command = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "data"), "--resume"]
        return subprocess.Popen(
            [*command, *tiny_overrides(output, **options)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    assert start(tmp_path / "whole").wait() == 0
    log, rng, kills = tmp_path / "killed" / "last_checkpoint", random.Random(0), 0
    while kills < 20:
        before = log.read_text() if log.exists() else ""
        process = start(tmp_path / "killed")
        while process.poll() is None and (log.read_text() if log.exists() else "") == before:
            time.sleep(0.02)  # some progress first, or it never ends
        time.sleep(rng.uniform(0, 0.5))
        assert process.poll() is None, "finished before it was killed often enough"
        process.kill()
        process.wait()
        kills += 1
    assert start(tmp_path / "killed").wait() == 0
    assert_equal(saved(tmp_path / "whole")["model"], saved(tmp_path / "killed")["model"])
    leftovers = [p.name for p in (tmp_path / "killed").iterdir() if p.name.endswith(".part")]
    assert not leftovers
