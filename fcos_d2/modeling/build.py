"""Builds the parts of FCOS; the only reader of ``cfg.MODEL.FCOS``."""

import functools
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from itertools import pairwise
from typing import Any

from detectron2.modeling import Backbone, build_backbone

from .assigners import CenterAssigner
from .box_coder import BOX_CODERS, BoxCoder
from .compat import Compat
from .criterion import BOX_QUALITIES, CLS_NORMALIZERS, FCOSCriterion
from .head import FCOSHead
from .locations import size_ranges
from .losses import BOX_LOSSES, sigmoid_focal_loss
from .nms import NMS_TYPES
from .postprocess import PostprocessOptions

__all__ = [
    "build_box_coder",
    "build_compat",
    "build_criterion",
    "build_head",
    "build_postprocess",
    "check_choice",
    "conventions",
    "fcos_arguments",
    "make_criterion",
    "old_arguments",
    "select_features",
    "with_conventions",
]

ASSIGNERS = ("fcos",)
CLS_LOSSES = ("focal",)
DEFAULT_COMPAT = Compat()


def fcos_arguments(cfg) -> dict[str, Any]:
    """Arguments of :class:`~fcos_d2.modeling.fcos.FCOS` for a config.

    Raises:
        ValueError: naming the config key, for options that contradict each other or the backbone.
    """
    options = cfg.MODEL.FCOS
    backbone = build_backbone(cfg)
    names, _, channels = select_features(backbone, options.IN_FEATURES)
    box_coder = build_box_coder(options)
    return {
        "backbone": backbone,
        "head": build_head(options, channels, len(names), box_coder),
        "criterion": build_criterion(options, len(names), box_coder),
        "in_features": options.IN_FEATURES,
        "even_grid": options.COMPAT.GRID_LOCATIONS,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "input_format": cfg.INPUT.FORMAT,
        "postprocess": build_postprocess(options, "TEST"),
        "postprocess_train": build_postprocess(options, "TRAIN"),
        "vis_period": cfg.VIS_PERIOD,
        "memory_format": options.MEMORY_FORMAT,
        "fold_norms": options.FOLD_NORMS,
        "compile_mode": options.COMPILE,
    }


def select_features(
    backbone: Backbone, wanted: Sequence[str] | None
) -> tuple[list[str], list[int], int]:
    """Names, strides and common number of channels of the feature maps that the head reads.

    Args:
        backbone: backbone with an FPN.
        wanted: feature names, fine to coarse; ``None`` takes all.

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


def build_box_coder(options) -> BoxCoder:
    """Box coder of ``MODEL.FCOS.BOX_REPRESENTATION``, or of the deprecated NORM_REG_TARGETS."""
    name, old = options.BOX_REPRESENTATION, options.NORM_REG_TARGETS
    check_choice("BOX_REPRESENTATION", name, tuple(BOX_CODERS))
    if old is not None:
        old_name = "ltrb_relu" if old else "ltrb_exp"
        if name not in ("ltrb_relu", old_name):  # ltrb_relu is the default: not a contradiction
            raise ValueError(
                f"MODEL.FCOS.BOX_REPRESENTATION is {name}, but MODEL.FCOS.NORM_REG_TARGETS {old} "
                f"means {old_name}: remove NORM_REG_TARGETS"
            )
        warnings.warn(
            f"MODEL.FCOS.NORM_REG_TARGETS is deprecated: MODEL.FCOS.BOX_REPRESENTATION {old_name} "
            f"replaces NORM_REG_TARGETS {old}",
            FutureWarning,
            stacklevel=2,
        )
        name = old_name
    return BOX_CODERS[name]()


def build_head(options, in_channels: int, num_levels: int, box_coder: BoxCoder) -> FCOSHead:
    return FCOSHead(
        in_channels=in_channels,
        num_levels=num_levels,
        num_classes=options.NUM_CLASSES,
        num_cls_convs=options.NUM_CLS_CONVS,
        num_box_convs=options.NUM_BOX_CONVS,
        num_share_convs=options.NUM_SHARE_CONVS,
        norm=options.NORM,
        use_deformable=options.USE_DEFORMABLE,
        use_scale=options.USE_SCALE,
        prior_prob=options.PRIOR_PROB,
        prior_distance=options.PRIOR_DISTANCE,
        centerness_on_reg=options.CENTERNESS_ON_REG,
        box_coder=box_coder,
    )


def make_criterion(
    num_levels: int,
    box_coder: BoxCoder,
    *,
    assigner: str = "fcos",
    sizes_of_interest: Sequence[float] = (64, 128, 256, 512),
    center_radius: float | None = 1.5,
    cls_loss: str = "focal",
    focal_alpha: float = 0.25,
    focal_gamma: float = 2.0,
    cls_loss_weight: float = 1.0,
    cls_loss_normalizer: str = "fg",
    loc_loss_type: str = "giou",
    box_quality: str = "ctrness",
    compat: Compat = DEFAULT_COMPAT,
) -> FCOSCriterion:
    """Criterion from named options.

    Args:
        num_levels: L, feature maps that the head reads.
        box_coder: representation of boxes.
        assigner, cls_loss: names of the parts [ASSIGNER, CLS_LOSS].
        sizes_of_interest: see ``size_ranges`` [SIZES_OF_INTEREST].
        center_radius: see :class:`CenterAssigner` [POS_RADIUS, CENTER_SAMPLE].
        focal_alpha, focal_gamma: see ``sigmoid_focal_loss`` [LOSS_ALPHA, LOSS_GAMMA].
        cls_loss_weight, cls_loss_normalizer, loc_loss_type, box_quality: see
            :class:`FCOSCriterion` [LOSS_WEIGHT_CLS, LOSS_NORMALIZER_CLS, LOC_LOSS_TYPE,
            BOX_QUALITY].
        compat: conventions of another code base [COMPAT].

    Raises:
        ValueError: naming the config key with an unknown or impossible value.
    """
    check_choice("ASSIGNER", assigner, ASSIGNERS)
    check_choice("CLS_LOSS", cls_loss, CLS_LOSSES)
    check_choice("LOC_LOSS_TYPE", loc_loss_type, BOX_LOSSES)
    check_choice("BOX_QUALITY", box_quality, BOX_QUALITIES)
    check_choice("LOSS_NORMALIZER_CLS", cls_loss_normalizer, CLS_NORMALIZERS)
    return FCOSCriterion(
        assigner=CenterAssigner(
            ranges=size_ranges(sizes_of_interest, num_levels),
            center_radius=center_radius,
            plus_one_area=compat.one_pixel_boxes,
            exclusive_ranges=compat.exclusive_ranges,
        ),
        box_coder=box_coder,
        class_loss=functools.partial(sigmoid_focal_loss, alpha=focal_alpha, gamma=focal_gamma),
        loc_loss_type=loc_loss_type,
        box_quality=box_quality,
        cls_loss_weight=cls_loss_weight,
        cls_normalizer=cls_loss_normalizer,
        box_loss_smoothing=0.0 if compat.unsmoothed_iou else 1.0,
        weight_by_centerness=not compat.unweighted_box_loss,
    )


def build_criterion(options, num_levels: int, box_coder: BoxCoder) -> FCOSCriterion:
    """Criterion of a ``MODEL.FCOS`` node; see :func:`make_criterion`."""
    return make_criterion(
        num_levels,
        box_coder,
        assigner=options.ASSIGNER,
        sizes_of_interest=options.SIZES_OF_INTEREST,
        center_radius=options.POS_RADIUS if options.CENTER_SAMPLE else None,
        cls_loss=options.CLS_LOSS,
        focal_alpha=options.LOSS_ALPHA,
        focal_gamma=options.LOSS_GAMMA,
        cls_loss_weight=options.LOSS_WEIGHT_CLS,
        cls_loss_normalizer=options.LOSS_NORMALIZER_CLS,
        loc_loss_type=options.LOC_LOSS_TYPE,
        box_quality=options.BOX_QUALITY,
        compat=build_compat(options),
    )


def build_compat(options) -> Compat:
    """Conventions of a ``MODEL.FCOS`` node."""
    return Compat(**{key.lower(): value for key, value in options.COMPAT.items()})


def build_postprocess(options, phase: str) -> PostprocessOptions:
    """Post-processing of a ``MODEL.FCOS`` node; ``phase`` is "TRAIN" or "TEST"."""
    check_choice("NMS_TYPE", options.NMS_TYPE, NMS_TYPES)
    plain = PostprocessOptions(
        score_threshold=options[f"INFERENCE_TH_{phase}"],
        threshold_with_centerness=options.THRESH_WITH_CTR,
        topk_per_level=options[f"PRE_NMS_TOPK_{phase}"],
        nms_threshold=options.NMS_TH,
        max_detections=options[f"POST_NMS_TOPK_{phase}"],
        nms_type=options.NMS_TYPE,
        soft_nms_sigma=options.SOFT_NMS_SIGMA,
    )
    return with_conventions(plain, build_compat(options))


def with_conventions(options: PostprocessOptions, compat: Compat) -> PostprocessOptions:
    """Post-processing options that follow the conventions of another code base."""
    known = {field.name for field in fields(PostprocessOptions)}
    switches = {name: value for name, value in asdict(compat).items() if name in known}
    return replace(options, **switches)


def old_arguments(
    old: dict[str, Any],
    num_levels: int,
    box_coder: BoxCoder,
    postprocess: PostprocessOptions,
    postprocess_train: PostprocessOptions,
) -> tuple[FCOSCriterion, bool, PostprocessOptions, PostprocessOptions]:
    """Translate arguments that ``FCOS(...)`` had in version 0.1.

    Returns:
        criterion, even_grid, postprocess and postprocess_train of ``FCOS``.

    Raises:
        TypeError: for a name that version 0.1 did not have either.
    """
    unknown = set(old) - {*inspect.signature(make_criterion).parameters}
    if unknown:
        raise TypeError(f"FCOS() got an unexpected keyword argument {min(unknown)!r}")
    warnings.warn(
        f"FCOS({', '.join(sorted(old))}) is deprecated: give criterion=make_criterion(...) of "
        "fcos_d2.modeling.build, and postprocess, even_grid for conventions of other code",
        FutureWarning,
        stacklevel=3,
    )
    compat = old.pop("compat", None) or DEFAULT_COMPAT
    return (
        make_criterion(num_levels, box_coder, compat=compat, **old),
        compat.grid_locations,
        with_conventions(postprocess, compat),
        with_conventions(postprocess_train, compat),
    )


def conventions(model) -> Compat:
    """Conventions that the parts of an FCOS follow, the inverse of what a config hands to them."""
    criterion, postprocess = model.criterion, asdict(model.postprocess)
    return Compat(
        grid_locations=model.location_generator.even_grid,
        exclusive_ranges=getattr(criterion.assigner, "exclusive_ranges", False),
        unsmoothed_iou=criterion.box_loss_smoothing == 0,
        unweighted_box_loss=not criterion.weight_by_centerness,
        **{f.name: postprocess[f.name] for f in fields(Compat) if f.name in postprocess},
    )


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, which names ``MODEL.FCOS.key``, unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"MODEL.FCOS.{key} is {value!r}, expected one of {', '.join(choices)}")
