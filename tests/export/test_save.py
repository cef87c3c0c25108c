"""Exported files against PyTorch: three sizes, one image and three."""

import sys

import numpy as np
import pytest
import torch
from support.exported_models import (
    SHAPES,
    TIMM,
    TWO_LEVELS,
    check_complete,
    inputs,
    make_predictor,
    two_level_fcos,
)

from fcos_d2.export.runtime import load_exported
from fcos_d2.export.save import OUTPUTS, save_model, tensor_model
from fcos_d2.modeling.backbone.size import size_divisibility
from fcos_d2.modeling.box_coder import LtrbExp


def save(model, path, kind, nms):
    multiple = size_divisibility(model.backbone)
    save_model(tensor_model(model, nms), path, kind, max(model.strides), multiple)


@torch.no_grad()
def dense_outputs(model, images, sizes):
    tensors = [torch.from_numpy(i[:, :h, :w]) for i, (h, w) in zip(images, sizes)]
    normalised = model.preprocess_image([{"image": tensor} for tensor in tensors]).tensor
    logits, boxes, quality = (
        torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1)
        for maps in model.network(normalised)
    )
    strides = model.predict(normalised).locations.strides[:, None]
    distances = model.head.box_coder.pixel_distances(boxes, strides)
    return logits.numpy(), distances.numpy(), quality[..., 0].numpy()


def check_raw(model, path, kind="onnx"):
    run = load_exported(path, kind, "none")
    for shape in SHAPES:
        images, sizes = inputs(*shape)
        found = run(images, sizes)
        assert list(found) == list(OUTPUTS["none"])
        expected = dense_outputs(model, images, sizes)
        for name, wanted in zip(("logits", "distances", "quality"), expected):
            assert found[name].shape == wanted.shape
            assert np.abs(found[name] - wanted).max() <= 1e-4 * np.abs(wanted).max(), name
        first, last = found["locations"][[0, -1]]
        coarsest = max(model.strides)
        assert first.tolist() == [min(model.strides) // 2] * 2
        assert (np.abs(last - [shape[2], shape[1]]) <= coarsest).all()


def test_onnx_of_a_resnet_raw(tmp_path):
    model = make_predictor(**TWO_LEVELS).model
    save(model, tmp_path / "a.onnx", "onnx", "none")
    check_raw(model, tmp_path / "a.onnx")


@pytest.mark.parametrize("nms", ["inside", pytest.param("none", marks=pytest.mark.slow)])
def test_onnx_of_a_timm_backbone(tmp_path, nms):
    model = make_predictor(**TIMM).model
    save(model, tmp_path / "a.onnx", "onnx", nms)
    {"none": check_raw, "inside": check_complete}[nms](model, tmp_path / "a.onnx")


@pytest.mark.parametrize("nms", ["inside", "none"])
def test_onnx_of_batch_norms_for_each_level(tmp_path, nms):
    model = two_level_fcos(head={"norm": "BN", "box_coder": LtrbExp()})
    save(model, tmp_path / "a.onnx", "onnx", nms)
    {"none": check_raw, "inside": check_complete}[nms](model, tmp_path / "a.onnx")


def test_onnx_of_a_deformable_head_or_why_not(tmp_path):
    model = two_level_fcos(head={"use_deformable": True})
    save(model, tmp_path / "a.onnx", "onnx", "none")
    try:
        load_exported(tmp_path / "a.onnx", "onnx", "none")
    except ValueError as error:
        assert "has no deformable convolution (1.32 has)" in str(error)
    else:
        check_raw(model, tmp_path / "a.onnx")


@pytest.mark.parametrize("kind", ["torchscript", "torch-export"])
def test_torch_formats(tmp_path, kind):
    model = two_level_fcos(head={"use_deformable": True})
    save(model, tmp_path / "a.file", kind, "inside")
    check_complete(model, tmp_path / "a.file", kind)
    if kind == "torchscript":
        save(model, tmp_path / "b.file", kind, "none")
        check_raw(model, tmp_path / "b.file", kind)


def test_exporting_leaves_the_model_as_it_was(tmp_path):
    model = make_predictor(**TIMM).model
    before = str(model)
    save(model, tmp_path / "a.ts", "torchscript", "none")
    assert str(model) == before
    check_raw(model, tmp_path / "a.ts", "torchscript")


def test_onnx_without_its_packages_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match="pip install onnx onnxscript"):
        save(two_level_fcos(), tmp_path / "a.onnx", "onnx", "none")


def test_a_model_that_torch_cannot_export_is_a_plain_error(tmp_path):
    class Unsupported(torch.nn.Module):
        def forward(self, images, image_sizes):
            raise RuntimeError("Constraints violated (32*rows)!\n  and much more")

    message = r"cannot write this model as onnx: Constraints violated \(32\*rows\)!\. Another"
    with pytest.raises(ValueError, match=message):
        save_model(Unsupported(), tmp_path / "a.onnx", "onnx", stride=16, multiple=32)
    assert not list(tmp_path.iterdir())
