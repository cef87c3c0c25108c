"""``fcos-d2 export``: files, metadata, check, int8, the example, and errors."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.exported_models import check_complete, make_predictor

from fcos_d2 import Predictor, cli
from fcos_d2.export.check import check_export, compare_detections, differences_table
from fcos_d2.export.int8 import calibration_images
from fcos_d2.export.metadata import read_metadata
from fcos_d2.export.run import export_model
from fcos_d2.export.runtime import load_exported, pad_batch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def predictor(saved_model):
    return Predictor.from_pretrained(saved_model, device="cpu")


def test_the_command_exports_and_checks(exported):
    path, status = exported
    assert status == 0
    names = {p.name for p in path.parent.iterdir()}
    stems = ("model_complete", "model_complete_int8")
    assert names == {stem + suffix for stem in stems for suffix in (".onnx", ".json")}


def test_the_file_detects_like_the_model_at_several_sizes(exported):
    check_complete(make_predictor().model, exported[0])


def test_the_metadata_hold_all_that_a_user_needs(exported, saved_model):
    metadata = json.loads(exported[0].with_suffix(".json").read_text())
    assert metadata == read_metadata(exported[0])
    assert metadata["format_version"] == 1
    assert (metadata["format"], metadata["flavour"]) == ("onnx", "complete")
    assert metadata["nms"] == "inside"
    assert metadata["class_names"] == ["cat", "dog", "owl"]
    assert metadata["category_ids"] is None  # no dataset of these classes is registered
    assert metadata["channel_order"] == "BGR"
    assert metadata["pixel_mean"] == pytest.approx([103.53, 116.28, 123.675])
    assert metadata["pixel_std"] == [1, 1, 1]
    assert (metadata["resize"]["min_size"], metadata["resize"]["max_size"]) == (64, 128)
    assert metadata["size_divisibility"] == 32
    assert metadata["strides"] == [8, 16, 32, 64, 128]
    assert metadata["score_threshold"] == 0.05
    assert metadata["nms_threshold"] == 0.6
    assert metadata["topk_per_level"] == 1000
    assert metadata["max_detections"] == 100
    assert metadata["source"] == str(saved_model)
    assert {"fcos_d2", "torch", "onnx", "onnxruntime"} <= set(metadata["versions"])


def test_the_metadata_describe_the_tensors_of_the_file(exported):
    import onnxruntime

    metadata, session = read_metadata(exported[0]), onnxruntime.InferenceSession(str(exported[0]))
    types = {"float32": "tensor(float)", "int64": "tensor(int64)"}
    for described, real in (
        (metadata["inputs"], session.get_inputs()),
        (metadata["outputs"], session.get_outputs()),
    ):
        assert [(t["name"], types[t["dtype"]], t["shape"]) for t in described] == [
            (r.name, r.type, r.shape) for r in real
        ]


def test_one_pixel_boxes_and_switches_are_in_the_metadata(tmp_path):
    predictor = make_predictor(**{"MODEL.FCOS.COMPAT.ONE_PIXEL_BOXES": True})
    path = export_model(predictor, tmp_path, kind="torchscript", max_detections=7)
    metadata = read_metadata(path)
    assert path.name == "model_complete.ts"
    assert metadata["added_to_x2_y2_after_scaling"] == 1
    assert metadata["compat"] == {"one_pixel_boxes": True}
    assert metadata["category_ids"] == [3, 7, 90]
    assert metadata["outputs"][0] == {"name": "boxes", "dtype": "float32", "shape": ["batch", 7, 4]}


def test_the_check_finds_a_file_of_another_model(tmp_path, predictor, images, capsys):
    path = export_model(predictor, tmp_path / "a.ts", kind="torchscript", min_score=0.2)
    assert all(d.ok for d in check_export(path, predictor, images, min_score=0.2))
    other = make_predictor()
    torch.nn.init.normal_(other.model.head.bbox_pred.bias, mean=2.0, std=0.5)
    found = check_export(path, other, images, min_score=0.2)
    assert not any(d.ok for d in found)
    assert [d.image for d in found] == ["0.png", "1.png", "2.png", "the first 3 as a batch"]
    assert differences_table(found).count("NO") == 4


def test_the_check_of_dense_outputs_is_relative(tmp_path, predictor, images):
    path = export_model(predictor, tmp_path / "a.ts", kind="torchscript", nms="none")
    (found,) = check_export(path, predictor, images[:1])
    assert found.ok and set(found.values) == {"logits", "distances", "quality"}
    other = make_predictor()
    with torch.no_grad():
        other.model.head.cls_logits.bias += 0.01
    (found,) = check_export(path, other, images[:1])
    assert not found.ok and found.values["distances"] <= 1e-4 < found.values["logits"]


def test_detections_pair_with_the_nearest_of_their_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 10]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 1])
    moved = boxes + torch.tensor([[0.0], [0.25], [0.0]])
    order = torch.tensor([2, 0, 1])
    same = compare_detections(
        (boxes, scores, classes), (moved[order], scores[order], classes[order])
    )
    assert same == (0.25, 0.0, 0)
    fewer = compare_detections((boxes, scores, classes), (boxes[:1], scores[:1] - 0.5, classes[:1]))
    assert fewer == (0.0, 0.5, 2)
    assert (
        compare_detections((boxes, scores, classes), (boxes[:0], scores[:0], classes[:0]))[2] == 3
    )


def test_int8_quantizes_only_the_convolutions_and_detects(exported, predictor, images):
    import onnx

    path = exported[0].with_name("model_complete_int8.onnx")
    kinds = {}
    for node in onnx.load(str(path)).graph.node:
        kinds.setdefault(node.op_type, []).append(node)
    made_from = {out for node in kinds["DequantizeLinear"] for out in node.output}
    assert all(set(node.input[:2]) <= made_from for node in kinds["Conv"])
    readers = {"Conv", "DequantizeLinear", "QuantizeLinear"}
    assert {"NonMaxSuppression", "TopK"} <= set(kinds) - readers
    assert read_metadata(path)["int8_calibration_pictures"] == 3
    assert path.stat().st_size < 0.5 * exported[0].stat().st_size

    tensor = predictor.prepare(images[0]).tensor
    near = load_exported(path, "onnx", "inside")(*pad_batch([tensor], 32))
    exact = load_exported(exported[0], "onnx", "inside")(*pad_batch([tensor], 32))
    assert near["count"][0] > 10
    assert not np.array_equal(near["scores"], exact["scores"])
    assert np.abs(near["scores"][0, 0] - exact["scores"][0, 0]) < 0.1


def test_calibration_takes_images_from_the_whole_folder(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.jpg").touch()
    (tmp_path / "notes.txt").touch()
    assert [p.stem for p in calibration_images(tmp_path, limit=3)] == ["0", "3", "6"]
    assert len(calibration_images(tmp_path)) == 10
    with pytest.raises(ValueError, match="no images in"):
        calibration_images(tmp_path / "nowhere")


@pytest.mark.parametrize("index", [0, 1, 2])  # as it is, enlarged, made smaller
def test_the_example_detects_like_the_predictor(exported, predictor, images, tmp_path, index):
    pytest.importorskip("cv2")
    drawn = tmp_path / "drawn.png"
    command = [sys.executable, "-I", str(ROOT / "tools/onnx_detect.py"), str(exported[0])]
    command += [images[index], "--threshold", "0.2", "--output", str(drawn)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in printed.splitlines()]
    values = torch.tensor([[float(x) for x in row[1:]] for row in rows])
    classes = torch.tensor([predictor.class_names.index(row[0]) for row in rows])
    found = predictor(images[index])
    found = found.select(found.scores >= 0.2)
    assert len(found) > 10
    theirs = (torch.from_numpy(x) for x in (found.boxes, found.scores, found.class_ids))
    pixels, scores, unmatched = compare_detections(
        (values[:, 1:], values[:, 0], classes), tuple(theirs)
    )
    assert (pixels <= 0.5, scores <= 1e-3, unmatched) == (True, True, 0)
    with Image.open(drawn) as a, Image.open(images[index]) as b:
        assert a.size == b.size
        assert np.array(a).tolist() != np.array(b.convert("RGB")).tolist()


def test_the_example_needs_only_onnxruntime_numpy_and_opencv():
    text = (ROOT / "tools/onnx_detect.py").read_text()
    imported = set(re.findall(r"^(?:import|from) (\w+)", text, re.MULTILINE))
    assert imported == {"argparse", "json", "pathlib", "cv2", "numpy", "onnxruntime"}


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--output", "a.pt"], r"should end with \.onnx, or be a folder"),
        (["--output", "out", "--format", "torchscript", "--int8", "x"], "--int8 is for"),
        (["--output", "out", "--weights", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_what_cannot_be_is_said_with_status_2(
    saved_model, capsys, tmp_path, monkeypatch, extra, message
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", "--model", str(saved_model), *extra]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_impossible_options_are_named(predictor, tmp_path):
    with pytest.raises(ValueError, match="unknown format 'tflite', expected one of onnx"):
        export_model(predictor, tmp_path, kind="tflite")
    with pytest.raises(ValueError, match="unknown nms 'cooked', expected one of inside, none"):
        export_model(predictor, tmp_path, nms="cooked")
    soft = make_predictor(**{"MODEL.FCOS.NMS_TYPE": "soft_linear"})
    with pytest.raises(ValueError, match="--nms none"):
        export_model(soft, tmp_path / "soft", kind="torchscript")
    assert export_model(soft, tmp_path / "soft", kind="torchscript", nms="none").is_file()


def test_a_broken_file_and_missing_metadata_are_named(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"ONNX Runtime cannot run .*a\.onnx"):
        load_exported(tmp_path / "a.onnx", "onnx", "none")
    with pytest.raises(FileNotFoundError, match=r"no a\.json beside"):
        read_metadata(tmp_path / "a.onnx")
    (tmp_path / "a.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="format version 99, this fcos_d2 reads 1"):
        read_metadata(tmp_path / "a.onnx")


@pytest.mark.parametrize(("words", "name"), [(["--nms", "none"], "raw"), ([], "complete")])
def test_flavour_is_the_old_spelling_of_nms(saved_model, tmp_path, words, name):
    common = ["export", "--model", str(saved_model), "--format", "torchscript", "--output"]
    for folder, more in (("new", words), ("old", ["--flavour", name])):
        assert cli.main([*common, str(tmp_path / folder), *more]) == 0
    new, old = (tmp_path / folder / f"model_{name}.json" for folder in ("new", "old"))
    assert new.read_text() == old.read_text()


def test_metadata_of_version_0_1_are_read(tmp_path):
    (tmp_path / "a.json").write_text('{"format_version": 1, "flavour": "raw"}')
    assert read_metadata(tmp_path / "a.onnx")["nms"] == "none"
