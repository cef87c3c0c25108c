"""Fixtures shared by all tests."""

import logging

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from support.tiny import write_coco


@pytest.fixture(autouse=True)
def seeded():
    """Seed torch and NumPy, so that random weights are the same in every run."""
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def log_reaches_caplog(monkeypatch):
    # Other tests call detectron2's setup_logger, which turns propagation off.
    monkeypatch.setattr(logging.getLogger("fcos_d2"), "propagate", True)


@pytest.fixture
def register():
    """Register datasets in COCO's format, and remove them after the test."""
    names = []

    def add(name, json_file, images):
        register_coco_instances(name, {}, str(json_file), str(images))
        names.append(name)
        return name

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def tiny(tmp_path, register):
    """Name of a registered dataset of four images and the categories 7, 3 and 90."""
    path = write_coco(tmp_path / "data")
    return register("tiny", path, tmp_path / "data" / "images")
