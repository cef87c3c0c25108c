"""Detections against the official FCOS and AdelaiDet, matched as sets: neighbouring scores tie."""

from dataclasses import replace

import pytest
import torch
from detectron2.structures import Boxes, Instances
from support.compare import check_same
from support.golden import golden
from support.models import STRIDES, level_shapes
from support.parts import detect_one
from torchvision.ops import batched_nms

from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.locations import make_locations
from fcos_d2.modeling.postprocess import PostprocessOptions, rescale_detections

CASES = golden("inference")
DEFAULT, ONE_PIXEL = Compat(), Compat(one_pixel_boxes=True)
SETTINGS = {  # score threshold, top-k per level, NMS threshold, detections
    "default": PostprocessOptions(0.05, False, 1000, 0.6, 100),
    "tight": PostprocessOptions(0.2, False, 50, 0.5, 20),
    "alldets": PostprocessOptions(0.05, False, 1000, 0.6, -1),
}


def names(start, end=""):
    return sorted(c for c in CASES if c.startswith(start) and c.endswith(end))


def options_of(case, **changes):
    z = CASES[case]
    threshold = z["score_thresh"] if "score_thresh" in z else z["pre_nms_thresh"]
    return PostprocessOptions(
        score_threshold=threshold.item(),
        topk_per_level=z["pre_nms_top_n_per_level"].item(),
        nms_threshold=z["nms_thresh"].item(),
        max_detections=z["max_detections"].item(),
        **changes,
    )


def detect(inputs, index, padded, options, compat=DEFAULT):
    """The detections of one image of the stored predictions."""
    z, locations = CASES[inputs], make_locations(level_shapes(*padded), STRIDES)
    pixels = z["reg_px"] if "reg_px" in z else z["reg"] * locations.strides[:, None]
    size = tuple(z["image_sizes_hw"][index].tolist())
    return detect_one(
        z["logits"][index], pixels[index], z["ctr"][index, :, 0], locations, size, options, compat
    )


def detect_with_plain_nms(inputs, index, padded, options):
    """One-pixel clipping, then torchvision's NMS: what the official code does on a CPU."""
    every = replace(options, nms_threshold=1.0, max_detections=-1)
    found = detect(inputs, index, padded, every, ONE_PIXEL)  # no IoU exceeds 1: nothing suppressed
    keep = batched_nms(
        found.pred_boxes.tensor, found.scores, found.pred_classes, options.nms_threshold
    )
    return found[keep if options.max_detections < 0 else keep[: options.max_detections]]


def of_image(case, index, prefix=""):
    z = CASES[case]
    here = z[prefix + "image_index"] == index
    return [z[prefix + k][here] for k in ("boxes", "scores", "classes")]


@pytest.mark.parametrize("case", names("official_inference", "cudanmsplus1"))
def test_detections_equal_the_official_gpu_code(case):
    options = options_of(case)
    for i in range(3):
        check_same(detect("inputs", i, (256, 320), options, ONE_PIXEL), *of_image(case, i))


@pytest.mark.parametrize("case", names("official_inference", "batchednms"))
def test_candidates_equal_the_official_code_under_plain_nms(case):
    for i in range(3):
        found = detect_with_plain_nms("inputs", i, (256, 320), options_of(case))
        check_same(found, *of_image(case, i))


@pytest.mark.parametrize("case", names("adelaidet_inference"))
def test_detections_equal_adelaidet_before_and_after_clipping(case):
    options = options_of(case, threshold_with_centerness="threshctr1" in case)
    for i in range(3):
        found = detect("inputs", i, (256, 320), options)
        check_same(found, *of_image(case, i))
        check_same(rescale_detections(found, *found.image_size), *of_image(case, i, "clipped_"))


@pytest.mark.parametrize("case", names("g3", "cuda_emulated") + names("g3", "nms_tv"))
def test_detections_of_other_scenes_equal_the_official_code(case):
    _, scene, setting, nms = case.split("_", 3)
    options = SETTINGS[setting]
    for i in range(2):
        z = CASES[case]
        expected = z[f"boxes_im{i}"], z[f"scores_im{i}"], z[f"labels1_im{i}"] - 1
        if nms == "nms_tv":
            found = detect_with_plain_nms(f"g3_inputs_{scene}", i, (224, 288), options)
        else:
            found = detect(f"g3_inputs_{scene}", i, (224, 288), options, ONE_PIXEL)
        check_same(found, *expected)


def test_every_reference_case_is_covered():
    assert len(names("official_inference")) == 12 and len(names("adelaidet_inference")) == 12
    assert len(names("g3_")) - len(names("g3_inputs")) == 20


def test_a_missing_detection_would_be_noticed():
    boxes = torch.tensor([[0.0, 0, 5, 5], [1, 1, 8, 8]])
    found = Instances(
        (9, 9), pred_boxes=Boxes(boxes), scores=torch.ones(2), pred_classes=torch.zeros(2).long()
    )
    check_same(found, boxes, found.scores, found.pred_classes)
    with pytest.raises(AssertionError):
        check_same(found, boxes[[0, 0]], found.scores, found.pred_classes)
