import logging
import math
import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from detectron2.modeling import build_model
from support.models import tiny_fcos

import fcos_d2
from fcos_d2.checkpoint import FCOSCheckpointer


def save(state, path):
    torch.save({"model": state}, path)
    return str(path)


def test_a_whole_model_loads_and_is_summed_up_in_three_lines(tmp_path, caplog):
    path = save(tiny_fcos().state_dict(), tmp_path / "model.pth")
    model = tiny_fcos()
    with caplog.at_level(logging.INFO, logger="fcos_d2"):
        FCOSCheckpointer(model).load(path)
    n = len(model.state_dict())
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("fcos_d2")]
    assert lines == [
        f"weights matched:    {n} of {n}",
        "weights missing:    0",
        "weights unexpected: 0",
    ]


def test_another_number_of_classes_keeps_all_but_the_logits(tmp_path, caplog):
    torch.manual_seed(0)
    source = tiny_fcos(num_classes=80)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    path = save(source.state_dict(), tmp_path / "coco.pth")
    model = tiny_fcos(num_classes=3)
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(path)
    assert sorted(checkpointer.missing_keys) == ["head.cls_logits.bias", "head.cls_logits.weight"]
    prior = -math.log(0.99 / 0.01)
    assert torch.allclose(model.head.cls_logits.bias, torch.tensor(prior))
    assert torch.equal(model.head.bbox_pred.weight, source.head.bbox_pred.weight)
    assert "another number of classes" in caplog.text


def test_plain_timm_weights_go_to_the_backbone(tmp_path):
    name = "tf_efficientnet_lite0"
    torch.manual_seed(0)
    whole = timm.create_model(name).state_dict()
    torch.save(whole, tmp_path / "timm.pth")
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("quick_start.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(str(tmp_path / "timm.pth"))
    assert not [k for k in checkpointer.missing_keys if k.startswith("backbone.bottom_up.")]
    assert checkpointer.missing_head_keys
    loaded = model.backbone.bottom_up.model.state_dict()
    assert all(torch.equal(loaded[k], whole[k]) for k in loaded)


def test_another_architecture_is_refused_with_names_of_both(tmp_path):
    path = save({"layer1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"another architecture.*layer1\.weight.*backbone\."):
        FCOSCheckpointer(tiny_fcos()).load(path)


def test_leftovers_of_a_killed_process_are_removed_and_checkpoints_stay(tmp_path, monkeypatch):
    checkpointer = FCOSCheckpointer(tiny_fcos(), str(tmp_path))
    checkpointer.save("model_final")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # a killed process removes nothing
    monkeypatch.setattr(torch, "save", lambda data, file: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpointer.save("model_0000001")
    monkeypatch.undo()
    expected = {"model_final.pth", "last_checkpoint"}
    assert len(set(os.listdir(tmp_path)) - expected) == 1
    checkpointer.remove_unfinished()
    assert set(os.listdir(tmp_path)) == expected


class Malicious:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.pth", b"<!DOCTYPE html><html>404</html>", "is a web page"),
        ("page.pkl", b"\n<html>", "is a web page"),
        ("empty.pth", b"", "is an empty file"),
        ("text.pth", b"version https://example.org", "cannot be read as a checkpoint"),
    ],
)
def test_files_that_are_no_checkpoints_say_what_they_are(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        FCOSCheckpointer(tiny_fcos()).load(str(tmp_path / name))
    assert name in str(error.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "model.pth"
    save(tiny_fcos().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated"):
        FCOSCheckpointer(tiny_fcos()).load(str(path))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    attack = Malicious()
    attack.folder = str(tmp_path / "executed")
    path = tmp_path / "attack.pth"
    path.write_bytes(pickle.dumps({"model": attack}))
    with pytest.raises(ValueError, match="more than"):
        FCOSCheckpointer(tiny_fcos()).load(str(path))
    assert not (tmp_path / "executed").exists()


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"no file 'nowhere\.pth'"):
        FCOSCheckpointer(tiny_fcos()).load("nowhere.pth")
