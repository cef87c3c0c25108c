"""NMS over a batch as a mask of fixed shape, as torch operators and as ONNX's own operator.

The result of NMS usually has a shape that depends on values, which exporters handle badly. A mask
over all candidates has a fixed shape.
"""

import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["nms_mask", "nms_mask_operator", "onnx_nms_mask"]

if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 7):
    raise ImportError(f"export needs torch 2.7 or later, this is {torch.__version__}")


def nms_mask(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    num_groups: int,
    iou_threshold: float,
    max_per_group: int,
) -> Tensor:
    """NMS within each group of each image.

    Args:
        boxes: (N, S, 4) x1, y1, x2, y2, finite.
        scores: (N, S); a negative score marks an entry that is not a candidate.
        groups: (N, S) int64 in [0, num_groups): the class, or 0 for NMS across classes.
        num_groups: G.
        iou_threshold: above this IoU the box with the lower score is suppressed.
        max_per_group: number of boxes needed per group and image; a hint, not used here.

    Returns:
        (N, S) bool, True for candidates that NMS keeps.
    """
    index = (scores.flatten() >= 0).nonzero()[:, 0]
    image = torch.arange(scores.shape[0], device=scores.device)[:, None]
    group = (image * num_groups + groups).flatten()[index]
    # Groups are shifted apart; in float32 this would round the coordinates and change the IoU.
    chosen = boxes.reshape(-1, 4)[index].double()
    span = boxes.amax().double() - boxes.amin().double() + 1
    chosen = chosen + (group * span)[:, None]
    keep = index[nms(chosen, scores.flatten()[index].double(), iou_threshold)]
    return torch.zeros_like(scores).flatten().index_fill(0, keep, 1.0).view(scores.shape) > 0


# nms_mask as one operator, which onnx_nms_mask translates to ONNX.
nms_mask_operator = torch.library.custom_op("fcos_d2::nms_mask", nms_mask, mutates_args=())


@nms_mask_operator.register_fake
def _(boxes, scores, groups, num_groups, iou_threshold, max_per_group):
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_nms_mask(boxes, scores, groups, num_groups, iou_threshold, max_per_group):
    """Translate the operator to ONNX, whose NonMaxSuppression separates images and classes."""
    import onnx
    from onnxscript import opset20 as op

    def constant(values, kind):
        shape = [len(values)] if isinstance(values, list) else []
        values = values if isinstance(values, list) else [values]
        return op.Constant(value=onnx.helper.make_tensor("value", kind, shape, values))

    int64, float32 = onnx.TensorProto.INT64, onnx.TensorProto.FLOAT
    one = constant([1], int64)
    every_group = op.Unsqueeze(constant(list(range(num_groups)), int64), constant([0, 2], int64))
    is_of_group = op.Equal(op.Unsqueeze(groups, one), every_group)  # (N, G, S)
    by_group = op.Where(is_of_group, op.Unsqueeze(scores, one), constant(-1.0, float32))
    picked = op.NonMaxSuppression(
        boxes,
        by_group,
        constant([max_per_group], int64),
        constant([iou_threshold], float32),
        constant([-0.5], float32),
    )  # (K, 3): image, group, candidate
    where = op.Gather(picked, constant([0, 2], int64), axis=1)
    count = op.Gather(op.Shape(picked), constant([0], int64))
    ones = op.Expand(constant([1.0], float32), count)
    nothing = op.Mul(scores, constant(0.0, float32))
    return op.Greater(op.ScatterND(nothing, where, ones), constant(0.5, float32))
