"""Which feature maps of a backbone the head sees."""

from collections.abc import Sequence
from itertools import pairwise

from detectron2.modeling import Backbone

__all__ = ["select_features"]


def select_features(
    backbone: Backbone, wanted: Sequence[str] | None
) -> tuple[list[str], list[int], int]:
    """Names, strides and common channels of the feature maps that the head sees.

    Raises:
        ValueError: if a name is unknown, strides do not double, or channels differ.
    """
    shapes = backbone.output_shape()
    names = list(wanted or sorted(shapes, key=lambda name: shapes[name].stride))
    unknown = [name for name in names if name not in shapes]
    if unknown:
        raise ValueError(
            f"MODEL.FCOS.IN_FEATURES asks for {unknown}, but the backbone gives "
            f"{sorted(shapes)}. (MODEL.FCOS.TOP_LEVELS adds p6 and p7.)"
        )
    strides = [shapes[name].stride for name in names]
    if any(b != 2 * a for a, b in pairwise(strides)):
        raise ValueError(
            f"MODEL.FCOS.IN_FEATURES {names} have strides {strides}: each must be twice the one "
            "before it"
        )
    channels = {shapes[name].channels for name in names}
    if len(channels) != 1:
        raise ValueError(
            f"the feature maps {names} have different channels {sorted(channels)}; put an FPN on "
            "the backbone: MODEL.BACKBONE.NAME build_fcos_fpn_p3p7_backbone and its builder's "
            "name in MODEL.FCOS.BOTTOM_UP"
        )
    return names, strides, channels.pop()
