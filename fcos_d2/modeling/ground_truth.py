"""Annotated boxes of a batch, as assigners and losses read them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..utils.device import to_device

__all__ = ["GroundTruth", "collect_ground_truth"]


@dataclass(frozen=True)
class GroundTruth:
    """Boxes of N images, concatenated.

    Attributes:
        boxes: (M, 4) x1, y1, x2, y2 in pixels of the network's input.
        classes: (M,) int64 class of each box.
        counts: number of boxes of each image; their sum is M.
        ignore: N tensors (K_i, 4), boxes inside which background is not learned; ``None``
            learns background everywhere.
    """

    boxes: Tensor
    classes: Tensor
    counts: list[int]
    ignore: list[Tensor] | None = None


def collect_ground_truth(
    batched_inputs: Sequence[dict], num_classes: int, device: torch.device
) -> GroundTruth:
    """Copy the annotations of a batch to ``device``.

    Args:
        batched_inputs: dicts with ``instances`` (``gt_boxes``, ``gt_classes``), optionally
            ``ignore_boxes`` (K, 4), as detectron2's data loader gives them.
        num_classes: classes of the model.
        device: device of the model.

    Raises:
        KeyError: if an input has no ``instances``.
        ValueError: if a class is not in [0, num_classes).
    """
    for x in batched_inputs:
        if "instances" not in x:
            raise KeyError(
                "training needs 'instances' in every input, missing for "
                f"{x.get('file_name', 'an image')}; call model.eval() for inference"
            )
        classes = x["instances"].gt_classes
        # Checked on the CPU only; reading a GPU tensor would synchronize.
        if classes.device.type == "cpu" and (classes >= num_classes).any():
            raise ValueError(
                f"{x.get('file_name', 'an image')} has class {int(classes.max())}, but "
                f"MODEL.FCOS.NUM_CLASSES is {num_classes}, and classes count from 0"
            )
    instances = [x["instances"] for x in batched_inputs]
    ignore = [to_device(x["ignore_boxes"], device) for x in batched_inputs if "ignore_boxes" in x]
    return GroundTruth(
        boxes=to_device(torch.cat([x.gt_boxes.tensor for x in instances]), device),
        classes=to_device(torch.cat([x.gt_classes for x in instances]), device),
        counts=[len(x) for x in instances],
        ignore=ignore or None,
    )
