import logging

import pytest
from data.coco_maker import Maker

from fcos_d2.quickstart import fetch


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    # detectron2's setup_logger, called by other tests, may have cut it off.
    monkeypatch.setattr(logging.getLogger("fcos_d2"), "propagate", True)


@pytest.fixture(autouse=True)
def no_network(request, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a test called pip")

    if "slow" not in request.keywords:
        monkeypatch.setattr(fetch.subprocess, "run", refuse)


@pytest.fixture
def train(tmp_path):
    """Two images with a box each: nothing is wrong."""
    maker = Maker(tmp_path / "train", seed=0)
    maker.image("a.png")
    maker.image("b.jpg", size=(48, 64))
    return maker


@pytest.fixture
def val(tmp_path):
    maker = Maker(tmp_path / "val", seed=1)
    maker.image("v.png")
    maker.image("w.jpg")
    return maker
