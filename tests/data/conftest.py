import logging

import pytest

from fcos_d2.data import fetch


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
