"""Writing a model as ONNX, TorchScript or a torch.export program, for any batch and image size.

Sizes are multiples of the backbone's size divisibility. The exporters are given this fact, because
without it they cannot prove that the maps of the FPN have equal sizes.
"""

import copy
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ..modeling.fcos import FCOS
from .graph import CompleteModel, RawModel
from .nms import nms_mask, nms_mask_operator, onnx_nms_mask

__all__ = ["FORMATS", "INPUTS", "OUTPUTS", "VARIANTS", "save_model", "tensor_model"]

# Name -> dtype and shape.
_Tensors: TypeAlias = dict[str, tuple[str, list[str | int]]]

# Position of NMS -> name of such models, in file names and in the metadata.
VARIANTS = {"inside": "complete", "none": "raw"}
FORMATS = {"onnx": ".onnx", "torchscript": ".ts", "torch-export": ".pt2"}
INPUTS: _Tensors = {
    "images": ("float32", ["batch", 3, "height", "width"]),
    "image_sizes": ("int64", ["batch", 2]),
}
OUTPUTS: dict[str, _Tensors] = {
    "inside": {
        "boxes": ("float32", ["batch", "detections", 4]),
        "scores": ("float32", ["batch", "detections"]),
        "classes": ("int64", ["batch", "detections"]),
        "count": ("int64", ["batch"]),
    },
    "none": {
        "logits": ("float32", ["batch", "locations", "classes"]),
        "distances": ("float32", ["batch", "locations", 4]),
        "quality": ("float32", ["batch", "locations"]),
        "locations": ("float32", ["locations", 2]),
    },
}
OPSET = 20
# Larger than any batch, and than any image side in units of the size divisibility.
_LARGEST = 4096


def tensor_model(model: FCOS, nms: str, *, min_score: float = 0.0) -> RawModel | CompleteModel:
    """Copy an FCOS into a function of tensors, which :func:`save_model` can write.

    Args:
        nms: "inside" for a model that returns detections, "none" for dense predictions.
        min_score: lowest final score of a detection.

    Raises:
        ValueError: if the model's options or its backbone cannot be exported.
    """
    if model.backbone.padding_constraints.get("square_size", 0) > 0:
        raise ValueError("this backbone needs square images of one size, which is not supported")
    model = copy.deepcopy(model).eval().float()
    make_padding_static(model.backbone)
    if nms == "none":
        return RawModel(model).eval()
    return CompleteModel(model, min_score=min_score).eval()


def save_model(module: nn.Module, path: Path, kind: str, stride: int, multiple: int) -> None:
    """Write the result of :func:`tensor_model` to a file.

    Args:
        kind: a key of ``FORMATS``.
        stride: largest stride of the model's levels.
        multiple: divisor of all heights and widths.

    Raises:
        ImportError: for ONNX, without its packages.
        ValueError: naming the reason, if the format cannot express the model.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # The exporters warn about their own future changes, and about branches fixed on purpose.
        warnings.simplefilter("ignore")
        try:
            if kind == "torchscript":
                traced = torch.jit.trace(module, _example(stride, multiple), check_trace=False)
                torch.jit.save(traced, str(path))
            elif kind == "torch-export":
                torch.export.save(_program(module, stride, multiple), str(path))
            else:
                _save_onnx(module, path, stride, multiple)
        except RuntimeError as error:  # base class of everything that the exporters raise
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"torch cannot write this model as {kind}: {reason}. Another --format may do"
            ) from error


def make_padding_static(module: nn.Module) -> None:
    """Replace timm's convolutions with TensorFlow's "same" padding by equivalent ones, in place.

    In general this padding depends on the size of the input, in a formula that exporters cannot
    handle. It is constant for sizes that the stride divides. All sizes here are like this, down to
    the coarsest feature in use, whose stride is the size divisibility.
    """
    for name, child in module.named_children():
        if type(child).__name__ == "Conv2dSame":
            setattr(module, name, _static_convolution(child))
        else:
            make_padding_static(child)


def _static_convolution(conv: Any) -> nn.Sequential:
    sides = []
    for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        sides.append((total // 2, total - total // 2))
    (top, bottom), (left, right) = sides
    plain = nn.Conv2d(
        *(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride),
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ZeroPad2d((left, right, top, bottom)), plain)


def _example(stride: int, multiple: int) -> tuple[Tensor, Tensor]:
    """Two images with different sides, on which no level has a side of 1."""
    coarsest = max(stride, multiple, 32)  # backbones compute stride 32 even if it is not used
    height = (coarsest + multiple) // multiple * multiple
    width = height + multiple
    images = torch.linspace(0, 255, 2 * 3 * height * width).view(2, 3, height, width)
    return images, torch.tensor([[height, width], [height - 1, width - 1]])


def _program(module: nn.Module, stride: int, multiple: int) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=_LARGEST)
    rows = torch.export.Dim("rows", min=1, max=_LARGEST)
    columns = torch.export.Dim("columns", min=1, max=_LARGEST)
    images = {0: batch, 2: multiple * rows, 3: multiple * columns}
    return torch.export.export(
        module, _example(stride, multiple), dynamic_shapes=(images, {0: batch}), strict=False
    )


def _save_onnx(module: nn.Module, path: Path, stride: int, multiple: int) -> None:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX needs onnx and onnxscript ({error}): pip install onnx onnxscript onnxruntime"
        ) from error
    nms = "none" if isinstance(module, RawModel) else "inside"
    if isinstance(module, CompleteModel):
        module.nms = nms_mask_operator
    try:
        program = torch.onnx.export(
            _program(module, stride, multiple),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS[nms]),
            custom_translation_table={torch.ops.fcos_d2.nms_mask.default: onnx_nms_mask},
            verbose=False,
        )
    finally:
        if isinstance(module, CompleteModel):
            module.nms = nms_mask
    assert program is not None  # the older exporter, dynamo=False, returns None
    graph = program.model.graph
    described = [*INPUTS.values(), *OUTPUTS[nms].values()]
    for value, (_, shape) in zip((*graph.inputs, *graph.outputs), described, strict=True):
        known = value.shape or ()  # fixed sides stay; formulas of free sides are replaced by names
        value.shape = onnx_ir.Shape(
            [a if isinstance(a, int) else b for a, b in zip(known, shape, strict=True)]
        )
    program.save(str(path))
