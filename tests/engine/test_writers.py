"""The progress bar and Weights & Biases."""

import sys
import types

import pytest
from detectron2.utils.events import EventStorage

import fcos_d2
from fcos_d2.engine.writers import DataTimeWarning, ProgressBar, WandbWriter


def test_the_bar_follows_the_iterations(capsys):
    with EventStorage(5) as storage:
        bar = ProgressBar(10, 5)
        for storage.iter in range(5, 10):
            storage.put_scalar("total_loss", 1.25)
            bar.write()
        bar.write()
        assert bar._bar.n == 10
        bar.close()
    assert "10/10" in capsys.readouterr().err


def test_wandb_gets_every_number_once(monkeypatch):
    logged, finished = [], []
    run = types.SimpleNamespace(
        log=lambda row, step: logged.append((step, row)), finish=lambda: finished.append(1)
    )
    fake = types.SimpleNamespace(init=lambda project, dir, config: run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    cfg = fcos_d2.get_cfg()
    cfg.SOLVER.WANDB_PROJECT = "mine"
    with EventStorage(0) as storage:
        writer = WandbWriter(cfg)
        for storage.iter in range(2):
            storage.put_scalar("total_loss", 2.0 - storage.iter)
            writer.write()
        writer.write()
        writer.close()
    assert logged == [(0, {"total_loss": 2.0}), (1, {"total_loss": 1.0})] and finished


def test_without_wandb_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match="pip install wandb"):
        WandbWriter(fcos_d2.get_cfg())


@pytest.mark.parametrize(("data_time", "warns"), [(0.1, False), (0.6, True)])
def test_waiting_for_data_is_said_once(data_time, warns, caplog):
    with EventStorage(0) as storage:
        writer = DataTimeWarning(after=5)
        for storage.iter in range(20):
            storage.put_scalars(time=1.0, data_time=data_time)
            writer.write()
    assert caplog.text.count("waiting for data") == int(warns)
