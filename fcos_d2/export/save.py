"""Writing a model as ONNX, TorchScript or a torch.export program, for any batch and picture size.

Sizes are multiples of the backbone's size divisibility; the exporters are told so, and can then
prove that the maps of the FPN fit together.
"""

import copy
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from .graph import CompleteModel, RawModel
from .nms import nms_mask, nms_mask_operator, onnx_nms_mask

__all__ = ["FLAVOURS", "FORMATS", "INPUTS", "OUTPUTS", "divisibility", "save_model", "tensor_model"]

FLAVOURS = ("complete", "raw")
FORMATS = {"onnx": ".onnx", "torchscript": ".ts", "torch-export": ".pt2"}
INPUTS = {
    "images": ("float32", ["batch", 3, "height", "width"]),
    "image_sizes": ("int64", ["batch", 2]),
}
OUTPUTS = {
    "complete": {
        "boxes": ("float32", ["batch", "detections", 4]),
        "scores": ("float32", ["batch", "detections"]),
        "classes": ("int64", ["batch", "detections"]),
        "count": ("int64", ["batch"]),
    },
    "raw": {
        "logits": ("float32", ["batch", "locations", "classes"]),
        "distances": ("float32", ["batch", "locations", 4]),
        "quality": ("float32", ["batch", "locations"]),
        "locations": ("float32", ["locations", 2]),
    },
}
OPSET = 20
# Larger than any batch or picture side, in units of the size divisibility.
_LARGEST = 4096


def tensor_model(model: nn.Module, flavour: str, *, min_score: float = 0.0) -> nn.Module:
    """A copy of an FCOS as a function of tensors, ready for any exporter but ONNX's.

    Raises:
        ValueError: if the model's options, or its backbone, are not possible.
    """
    if model.backbone.padding_constraints.get("square_size", 0) > 0:
        raise ValueError("this backbone wants square pictures of one size, which is not supported")
    model = copy.deepcopy(model).eval().float()
    make_padding_static(model.backbone)
    if flavour == "raw":
        return RawModel(model).eval()
    return CompleteModel(model, min_score=min_score).eval()


def save_model(module: nn.Module, path: Path, kind: str, stride: int, multiple: int) -> None:
    """Write what :func:`tensor_model` gave.

    Args:
        module: a RawModel or CompleteModel.
        path: of the file.
        kind: one of FORMATS.
        stride: the largest one.
        multiple: that heights and widths are multiples of.

    Raises:
        ImportError: for ONNX, without its packages.
        ValueError: naming the reason, for what the format cannot express.
    """
    with torch.no_grad(), warnings.catch_warnings():
        # The exporters warn of their own coming changes and of branches that are meant to be fixed.
        warnings.simplefilter("ignore")
        try:
            if kind == "torchscript":
                traced = torch.jit.trace(module, _example(stride, multiple), check_trace=False)
                torch.jit.save(traced, str(path))
            elif kind == "torch-export":
                torch.export.save(_program(module, stride, multiple), str(path))
            else:
                _save_onnx(module, path, stride, multiple)
        except RuntimeError as error:  # all that the exporters raise is one
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"torch cannot write this model as {kind}: {reason}. Another --format may do"
            ) from error


def divisibility(backbone: nn.Module) -> int:
    """What heights and widths of the network's input are multiples of."""
    constraints = backbone.padding_constraints
    return max(constraints.get("size_divisibility", backbone.size_divisibility), 1)


def make_padding_static(module: nn.Module) -> None:
    """Replace timm's convolutions with TensorFlow's "same" padding by equal ones, in place.

    Their padding depends on the size of the input, but of a size that the stride divides it does
    not. Here all sizes are such, down to the coarsest feature in use, whose stride is the size
    divisibility. Exporters get lost in the general formula.
    """
    for name, child in module.named_children():
        if type(child).__name__ == "Conv2dSame":
            setattr(module, name, _static_convolution(child))
        else:
            make_padding_static(child)


def _static_convolution(conv: nn.Conv2d) -> nn.Sequential:
    padding = []
    for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        padding = [total // 2, total - total // 2, *padding]  # the last dimension comes first
    plain = nn.Conv2d(
        *(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride),
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ZeroPad2d(padding), plain)


def _example(stride: int, multiple: int) -> tuple[Tensor, Tensor]:
    """Two images on which no level has a side of 1 and no two sides are equal."""
    coarsest = max(stride, multiple, 32)  # backbones go down to 32, also where that is not used
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
        module,
        _example(stride, multiple),
        dynamic_shapes=(images, {0: batch}),
        strict=False,
    )


def _save_onnx(module: nn.Module, path: Path, stride: int, multiple: int) -> None:
    try:
        import onnx_ir
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"ONNX needs onnx and onnxscript ({error}): pip install onnx onnxscript onnxruntime"
        ) from error
    flavour = "raw" if isinstance(module, RawModel) else "complete"
    if flavour == "complete":
        module.nms = nms_mask_operator
    try:
        program = torch.onnx.export(
            _program(module, stride, multiple),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS[flavour]),
            custom_translation_table={torch.ops.fcos_d2.nms_mask.default: onnx_nms_mask},
            verbose=False,
        )
    finally:
        if flavour == "complete":
            module.nms = nms_mask
    graph = program.model.graph
    described = [*INPUTS.values(), *OUTPUTS[flavour].values()]
    for value, (_, shape) in zip((*graph.inputs, *graph.outputs), described, strict=True):
        known = value.shape  # fixed numbers stay, formulas of other dimensions get a name
        value.shape = onnx_ir.Shape(
            [a if isinstance(a, int) else b for a, b in zip(known, shape, strict=True)]
        )
    program.save(str(path))
