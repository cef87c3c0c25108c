"""Detections of the tensor-only model are those of the model itself, whatever the options."""

import pytest
import torch
from support.compare import check_same
from support.exported_models import two_level_fcos

from fcos_d2.export.graph import CompleteModel
from fcos_d2.export.nms import nms_mask, nms_mask_operator
from fcos_d2.modeling.box_coder import LtrbExp
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.postprocess import PostprocessOptions

SIZES = [(61, 93), (64, 80), (33, 96)]


def batch(fill=77.0):
    """Three images, and the same as one padded array."""
    tensors = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in SIZES]
    images = torch.full((3, 3, 64, 96), fill)
    for image, tensor in zip(images, tensors):
        image[:, : tensor.shape[1], : tensor.shape[2]] = tensor
    return tensors, images, torch.tensor(SIZES)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compat": Compat(one_pixel_boxes=True)},
        {"compat": Compat(grid_locations=True, root_score_threshold=True, clip_before_nms=True)},
        {"compat": Compat(clip_before_nms=True, keep_empty_boxes=True)},
        {"compat": Compat(topk_by_class_score=True, product_scores=True, clip_before_nms=True)},
        {"head": {"box_coder": LtrbExp()}},
        {"postprocess": PostprocessOptions(nms_type="class_agnostic")},
        {"postprocess": PostprocessOptions(nms_type="none", topk_per_level=20)},
        {"postprocess": PostprocessOptions(threshold_with_centerness=True, score_threshold=0.1)},
        {"postprocess": PostprocessOptions(max_detections=-1, topk_per_level=50)},
        {"postprocess": PostprocessOptions(max_detections=7, nms_threshold=0.3)},
    ],
)
def test_every_option_gives_the_models_own_detections(options):
    model = two_level_fcos(**options)
    tensors, images, sizes = batch()
    with torch.no_grad():
        boxes, scores, classes, count = CompleteModel(model)(images, sizes)
        expected = model([{"image": tensor} for tensor in tensors])
    for i, output in enumerate(expected):
        wanted = output["instances"]
        k = int(count[i])
        assert k > 5
        found = boxes[i, :k].clone()
        found[:, 2:] += int(model.postprocess.one_pixel_boxes)
        check_same(wanted, found, scores[i, :k], classes[i, :k])
        assert (classes[i, k:] == -1).all()
        assert not boxes[i, k:].any() and not scores[i, k:].any()


def test_padding_may_hold_anything():
    complete = CompleteModel(two_level_fcos())
    torch.manual_seed(1)
    _, images, sizes = batch(fill=0.0)
    torch.manual_seed(1)
    _, others, _ = batch(fill=255.0)
    with torch.no_grad():
        for a, b in zip(complete(images, sizes), complete(others, sizes)):
            assert torch.equal(a, b)


def test_a_score_threshold_leaves_out_the_weaker_ones():
    model = two_level_fcos()
    _, images, sizes = batch()
    with torch.no_grad():
        _, every, _, _ = CompleteModel(model)(images, sizes)
        threshold = float(every[every > 0].median())
        _, strict, _, count = CompleteModel(model, min_score=threshold)(images, sizes)
    assert 0 < count.sum() < (every > 0).sum()
    assert torch.equal(count, (every >= threshold).sum(dim=1))
    assert torch.equal(strict, torch.where(every >= threshold, every, 0.0))


def test_a_model_that_diverged_gives_nothing_instead_of_nan():
    model = two_level_fcos()
    torch.nn.init.constant_(model.head.bbox_pred.bias, torch.nan)
    _, images, sizes = batch()
    with torch.no_grad():
        boxes, scores, _, count = CompleteModel(model)(images, sizes)
    assert not count.any() and not boxes.any() and not scores.any()


@pytest.mark.parametrize("kind", ["soft_linear", "soft_gaussian"])
def test_soft_nms_is_refused_with_the_way_out(kind):
    model = two_level_fcos(postprocess=PostprocessOptions(nms_type=kind))
    with pytest.raises(ValueError, match=f"NMS_TYPE {kind} is not possible.*--nms none"):
        CompleteModel(model)


def test_boxes_of_other_images_and_classes_do_not_suppress():
    box = torch.tensor([10.0, 10.0, 50.0, 50.0])
    boxes = box.repeat(2, 4, 1)
    boxes[:, 3] = 0
    scores = torch.tensor([[0.9, 0.8, 0.7, -1.0], [0.1, 0.2, 0.3, -1.0]])
    groups = torch.tensor([[0, 0, 1, 0], [0, 0, 1, 0]])
    expected = torch.tensor([[True, False, True, False], [False, True, True, False]])
    for function in (nms_mask, nms_mask_operator):
        assert torch.equal(function(boxes, scores, groups, 2, 0.5, 10), expected)


def test_far_away_classes_do_not_blur_the_overlap():
    """IoU 0.5 + 1e-4 of class 1000: moving boxes apart in float32 would lose that."""
    boxes = torch.tensor([[[0.0, 0.0, 100.0, 100.0], [0.0, 0.0, 50.01, 100.0]]])
    scores, groups = torch.tensor([[0.9, 0.8]]), torch.tensor([[1000, 1000]])
    assert nms_mask(boxes, scores, groups, 1203, 0.5, 10).tolist() == [[True, False]]
    assert nms_mask(boxes, scores, groups, 1203, 0.5002, 10).tolist() == [[True, True]]
