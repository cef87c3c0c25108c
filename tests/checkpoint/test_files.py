"""Files from anywhere: what can be read, what is refused, and that nothing in them runs."""

import functools
import hashlib
import http.server
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from support.models import tiny_fcos

import fcos_d2
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.checkpoint.files import check_published_hash, read_checkpoint, unwrap


class Malicious:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["attack.pkl", "attack.pth"])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"model": {"w": x}, "__author__": "me"}])
def test_nothing_in_a_pickle_is_executed(tmp_path, name, wrap):
    attack = Malicious(tmp_path / "executed")
    (tmp_path / name).write_bytes(pickle.dumps(wrap(attack), protocol=2))
    with pytest.raises(ValueError, match="more than tensors"):
        read_checkpoint(str(tmp_path / name))
    assert not (tmp_path / "executed").exists()


def test_detectron2s_and_caffe2s_pickles_are_read(tmp_path):
    weights = {"res2_0_branch2a_w": np.ones((2, 2), np.float32), "lr": np.float64(0.1)}
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        zoo = {"model": weights, "__author__": "someone", "matching_heuristics": True}
        (tmp_path / "zoo.pkl").write_bytes(pickle.dumps(zoo, protocol))
        read = read_checkpoint(str(tmp_path / "zoo.pkl"))
        assert read["__author__"] == "someone" and read["matching_heuristics"]
        np.testing.assert_array_equal(read["model"]["res2_0_branch2a_w"], np.ones((2, 2)))
        caffe = {"blobs": {**weights, "res2_0_branch2a_w_momentum": weights["res2_0_branch2a_w"]}}
        (tmp_path / "caffe.pkl").write_bytes(pickle.dumps(caffe, protocol))
        read = read_checkpoint(str(tmp_path / "caffe.pkl"))
        assert read["__author__"] == "Caffe2" and sorted(read["model"]) == sorted(weights)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.pkl", b"<html>not found", "is a web page"),
        ("cut.pkl", pickle.dumps({"model": {"w": np.ones(99)}})[:60], "truncated"),
        ("list.pkl", pickle.dumps([1, 2]), "holds a list"),
        ("none.pkl", pickle.dumps({"a": 1}), "holds no weights: its entries are a"),
    ],
)
def test_other_pickles_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_checkpoint(str(tmp_path / name))


def test_wrappers_are_removed_and_the_rest_is_kept():
    w = torch.ones(2)
    assert unwrap({"a.w": w}) == {"model": {"a.w": w}}
    assert unwrap({"state_dict": {"module.a": w}, "meta": 1}) == {"meta": 1, "model": {"a": w}}
    mixed = {"module.a": w, "b": w}
    assert unwrap({"model": mixed}) == {"model": mixed}
    with pytest.raises(ValueError, match="no weights"):
        unwrap({"epoch": 3, "args": {}})


def test_a_file_whose_name_holds_another_hash_is_refused(tmp_path):
    content = b"some weights"
    digest = hashlib.sha256(content).hexdigest()[:8]
    right, wrong, plain = (tmp_path / n for n in (f"m-{digest}.pth", "m-0badc0de.pth", "m.pth"))
    for path in (right, wrong, plain):
        path.write_bytes(content)
    check_published_hash(str(right))
    check_published_hash(str(plain))
    with pytest.raises(ValueError, match=f"starts with {digest}, not 0badc0de"):
        check_published_hash(str(wrong))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server of a folder, and an empty download cache."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "site").mkdir()
    handler = functools.partial(QuietHandler, directory=str(tmp_path / "site"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield tmp_path / "site", f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_weights_come_from_an_address_with_a_query(site):
    folder, address = site
    source = tiny_fcos()
    torch.save({"model": source.state_dict()}, folder / "model.pth")
    model = tiny_fcos()
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(f"{address}/model.pth?download=true")
    assert not checkpointer.missing_keys
    assert torch.equal(model.head.cls_logits.weight, source.head.cls_logits.weight)
    torch.save({"model": source.state_dict()}, folder / "model-0badc0de.pth")
    with pytest.raises(ValueError, match="not the file that was published"):
        FCOSCheckpointer(model).load(f"{address}/model-0badc0de.pth")


def test_torchvisions_imagenet_weights_go_to_the_backbone(tmp_path):
    import torchvision

    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet18-f37072fd.pth")
    cfg = fcos_d2.get_cfg()
    name = "mmdet/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.yaml"
    cfg.merge_from_file(fcos_d2.get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(str(tmp_path / "resnet18-f37072fd.pth"))
    missing = [k for k in checkpointer.missing_keys if "bottom_up" in k]
    assert not missing
    block = model.backbone.bottom_up.res5[1]
    assert torch.equal(block.conv2.weight, theirs.layer4[1].conv2.weight)
