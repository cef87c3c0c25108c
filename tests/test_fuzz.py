"""Damaged files of every kind: the error names the file, and nothing is half loaded."""

import json
import logging
import random
import warnings

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from support.models import tiny_fcos

import fcos_d2
from fcos_d2.checkpoint.checkpointer import FCOSCheckpointer
from fcos_d2.data.datasets.custom import register_custom
from fcos_d2.data.loader import training_records
from fcos_d2.data.mapper import FCOSDatasetMapper
from fcos_d2.engine.checks import check_datasets

CASES = 200
HELPFUL = (ValueError, FileNotFoundError, KeyError)


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Truncate bytes, change some, remove a range, or replace a range."""
    data = bytearray(content)
    kind = rng.randrange(4)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data))])
    if kind == 1:
        for _ in range(rng.choice([1, 3, 30])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice([1, 8, 100, 4000]))
    return bytes(data[:start]) + (b"" if kind == 2 else b"<html>\0" * 3) + bytes(data[end:])


def test_damaged_checkpoints_change_nothing_or_load_completely(tmp_path):
    rng, path = random.Random(0), tmp_path / "model.pth"
    source = tiny_fcos()
    torch.save({"model": source.state_dict()}, path)
    content, refused = path.read_bytes(), 0
    model = tiny_fcos()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(CASES):
        path.write_bytes(damaged(content, rng))
        try:
            FCOSCheckpointer(model).load(str(path))
        except HELPFUL as error:
            assert str(path) in str(error) or "another architecture" in str(error), error
            refused += 1
            assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        else:  # values may have changed, but no tensor is missing
            model.load_state_dict(before)
    assert refused > CASES / 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_damaged_images_are_named(tmp_path, suffix):
    rng, path = random.Random(1), tmp_path / f"image.{suffix}"
    pixels = bytes(rng.randrange(256) for _ in range(48 * 32 * 3))
    Image.frombytes("RGB", (48, 32), pixels).save(path)
    content, refused = path.read_bytes(), 0
    cfg = fcos_d2.get_cfg()
    mapper = FCOSDatasetMapper(cfg, is_train=False)
    record = {"file_name": str(path), "width": 48, "height": 32, "image_id": 1}
    for _ in range(CASES):
        path.write_bytes(damaged(content, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mapper(record)
        except HELPFUL as error:
            assert path.name in str(error)
            refused += 1
    assert refused > CASES / 10


def mutated(node, rng: random.Random):
    """Replace or remove one value inside a JSON value, perhaps by one of another type."""
    if isinstance(node, dict) and node and rng.random() < 0.9:
        key = rng.choice(sorted(node))
        if rng.random() < 0.2:
            return {k: v for k, v in node.items() if k != key}
        return {**node, key: mutated(node[key], rng)}
    if isinstance(node, list) and node and rng.random() < 0.9:
        i = rng.randrange(len(node))
        return [*node[:i], mutated(node[i], rng), *node[i + 1 :]]
    return rng.choice([None, "text", -1, 0, 10**9, 1.5, float("nan"), [], {}, [1, 2, 3], True])


def test_damaged_annotations_are_named(tmp_path):
    logging.disable(logging.CRITICAL)
    rng, path = random.Random(2), tmp_path / "data.json"
    (tmp_path / "images").mkdir()
    Image.new("RGB", (48, 32)).save(tmp_path / "images" / "0.png")
    content = {
        "images": [{"id": 1, "file_name": "0.png", "width": 48, "height": 32}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1 + i % 2, "bbox": [1, 2, 20, 20], "area": 400}
            | {"iscrowd": 0}
            for i in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    cfg = fcos_d2.get_cfg()
    cfg.DATASETS.TRAIN = ("fuzzed",)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    mapper = FCOSDatasetMapper(cfg, is_train=True)
    refused, text = 0, json.dumps(content).encode()
    try:
        for case in range(2 * CASES):
            whole = json.dumps(mutated(content, rng)).encode()
            path.write_bytes(whole if case % 2 else damaged(text, rng))
            try:
                register_custom(
                    [{"name": "fuzzed", "json": str(path), "images": str(tmp_path / "images")}],
                    tmp_path / "cache",
                )
                check_datasets(2, ["fuzzed"])
                for record in training_records(cfg):
                    mapper(record)
            except HELPFUL as error:
                message = str(error)
                named = any(n in message for n in ("data.json", "fuzzed", "0.png", "file_name"))
                assert named, message
                refused += 1
            for catalog in (DatasetCatalog, MetadataCatalog):
                if "fuzzed" in catalog.list():
                    catalog.remove("fuzzed")
    finally:
        logging.disable(logging.NOTSET)
    assert refused > CASES / 2
