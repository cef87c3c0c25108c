"""Training in groups of processes started by torchrun: the same result, and a common end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny import tiny_overrides, write_coco

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]

# train_net.py, but for the data set, and for what is to go wrong.
SCRIPT = """
import contextlib, os, signal, sys
import torch
from detectron2.data.datasets import register_coco_instances
from fcos_d2.engine import main as engine
from fcos_d2.engine.train_loop import TrainStep

folder, fault, words = sys.argv[1], sys.argv[2], sys.argv[3:]
register_coco_instances("tiny", {}, folder + "/data.json", folder + "/images")
original = TrainStep.run_step

def run_step(self):
    rank = int(os.environ.get("RANK", 0))
    if fault == "nan" and rank == 1 and self.iter == 2:
        with torch.no_grad():
            self.plain_model.head.ctrness.bias.fill_(float("nan"))
    first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
    if fault == "kill" and rank == 1 and self.iter == 5 and first_life:
        os.kill(os.getpid(), signal.SIGKILL)
    original(self)

TrainStep.run_step = run_step
flags = ["--skip-test"]
if fault == "evaluate":
    odd = os.path.dirname(folder) + "/odd"
    register_coco_instances("odd", {}, odd + "/data.json", odd + "/images")
    flags = []
engine.run(["--config-file", "fcos_R_50_FPN_1x.yaml", *flags, *words])
tasks = "/proc/self/task"
for task in os.listdir(tasks) if os.path.isdir(tasks) else ():
    with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
        print("left:", open(f"{tasks}/{task}/comm").read())
"""


@pytest.fixture
def train(tmp_path):
    """Runs the script in so many processes (None: without torchrun); returns what it printed."""
    write_coco(tmp_path / "data", num_images=8)
    (tmp_path / "script.py").write_text(SCRIPT)

    def run(output, processes, fault="none", flags=(), restarts=0, **options):
        starter = [sys.executable]
        if processes:
            starter = [*TORCHRUN, f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        options = {"DATALOADER.ASPECT_RATIO_GROUPING": False, "SOLVER.IMS_PER_BATCH": 4, **options}
        words = [str(tmp_path / "data"), fault, *flags, *tiny_overrides(output, **options)]
        return subprocess.run(
            [*starter, str(tmp_path / "script.py"), *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def weights(output):
    return torch.load(output / "model_final.pth", weights_only=True)["model"]


def test_two_processes_train_as_one_does(tmp_path, train):
    # Later, a ReLU that rounding switches can make runs differ by far more than rounding.
    options = {"SOLVER.MAX_ITER": 6, "SOLVER.BASE_LR": 0.01, "SOLVER.WARMUP_ITERS": 5}
    for output, processes in (("one", None), ("two", 2)):
        done = train(tmp_path / output, processes, **options)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Grad strides" not in done.stderr  # DDP warns of a copy of every gradient
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        if value.is_floating_point():
            difference = (value - two[name]).abs().max()
            assert difference <= 1e-5 * value.abs().max().clamp(min=1), name


def test_every_process_stops_with_the_message_of_the_one_whose_loss_is_no_number(tmp_path, train):
    done = train(tmp_path / "output", 2, "nan", **{"SOLVER.MAX_ITER": 10})
    assert done.returncode != 0
    message = [line for line in done.stderr.splitlines() if "train_net.py: loss is not" in line]
    assert len(message) == 2 and message[0] == message[1] and "iteration 2" in message[0]
    assert sum("process 1: " in line and "nan" in line for line in done.stderr.splitlines()) >= 2


def test_a_killed_process_is_restarted_and_the_run_completes(tmp_path, train):
    options = {"SOLVER.MAX_ITER": 8, "SOLVER.CHECKPOINT_PERIOD": 2}
    done = train(tmp_path / "killed", 2, "kill", ["--resume"], restarts=1, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "killed" / "log.txt").read_text()
    assert "resumed at iteration 4" in log
    assert train(tmp_path / "whole", 2, **options).returncode == 0
    killed, whole = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())


def test_validation_losses_of_an_odd_number_of_images_hang_nothing(tmp_path, train):
    write_coco(tmp_path / "odd", num_images=3)
    options = {"TEST.VAL_LOSS": True, "TEST.EVAL_PERIOD": 1, "SOLVER.MAX_ITER": 2}
    options["DATASETS.TEST"] = "('odd',)"
    done = train(tmp_path / "output", 2, "evaluate", **options)
    assert done.returncode == 0, done.stderr[-3000:]
    # Now and then, a thread of the group that outlives the interpreter aborts the process.
    assert "gloo" not in "".join(x for x in done.stdout.splitlines() if x.startswith("left:"))
    assert "val_total_loss" in (tmp_path / "output" / "metrics.json").read_text()
