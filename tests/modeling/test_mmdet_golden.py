"""mmdetection's head, losses and post-processing under its conventions."""

from dataclasses import replace

import pytest
import torch
from support.compare import check_same, error
from support.golden import golden
from support.inputs import ground_truth
from support.models import STRIDES, GivenDistances, flat, level_shapes, maps, tiny_fcos
from support.parts import detect_one, head_outputs, labels_and_targets, losses_of

from fcos_d2.checkpoint.convert import FORMATS
from fcos_d2.modeling.box_coder import LtrbExp, LtrbRelu
from fcos_d2.modeling.head import FCOSHead
from fcos_d2.modeling.locations import make_locations
from fcos_d2.modeling.postprocess import PostprocessOptions

CASES = golden("mmdet")
COMPAT = FORMATS["mmdet"].compat
LOSSES = sorted(c for c in CASES if c.startswith("two/"))


@pytest.mark.parametrize("norm", [False, True])
@torch.no_grad()
def test_head(norm):
    state = FORMATS["mmdet"].convert({f"bbox_head.{k}": v for k, v in CASES["state"].items()})
    head = FCOSHead(
        in_channels=32,
        num_levels=5,
        num_classes=8,
        centerness_on_reg=norm,
        box_coder=LtrbRelu() if norm else LtrbExp(),
    )
    head.load_state_dict({k.removeprefix("head."): v for k, v in state.items()}, strict=True)
    features = golden("heads")["g1_official_head_dcn_ctrOnReg_norm1"]
    inputs = [features[f"feature_p{k}"] for k in range(3, 8)]
    logits, distances, quality = (flat(x) for x in head_outputs(head, inputs))
    sizes = [x.shape[-2:] for x in inputs]
    expected = CASES[f"norm{int(norm)}_ctrreg{int(norm)}"]
    if norm:
        distances = distances * make_locations(sizes, STRIDES).strides[:, None]
    assert error(logits, CASES["norm0_ctrreg0"]["logits"]) <= 1e-5
    assert error(distances, expected["bbox"]) <= 1e-5
    assert error(quality, expected["centerness"]) <= 1e-5


@pytest.mark.parametrize("case", LOSSES)
def test_losses_and_gradients_of_the_box_branch(case):
    _, center, norm, kind = case.split("/")
    expected, inputs = CASES[case], golden("losses_g2")["inputs"]
    norm = norm == "norm1"
    model = tiny_fcos(
        20,
        head={"box_coder": GivenDistances(in_strides=norm)},
        center_radius=1.5 if center == "cs1" else None,
        loc_loss_type={"IoULoss": "iou", "GIoULoss": "giou"}[kind],
        compat=COMPAT,
    )
    locations = make_locations(level_shapes(544, 608), STRIDES)
    gt = [ground_truth(inputs[f"boxes_{i}"], inputs[f"classes0_{i}"]) for i in (0, 1)]
    assert torch.equal(labels_and_targets(model, locations, gt)[0], expected["labels"].long())
    distances = inputs["reg_px"] / (locations.strides[:, None] if norm else 1)
    distances.requires_grad_()
    logits = torch.zeros(*distances.shape[:2], 20)
    predictions = (maps(x, locations) for x in (logits, distances, inputs["ctr"]))
    losses = losses_of(model, *predictions, locations, gt)
    assert error(losses["loss_fcos_loc"], expected["loss_bbox"]) <= 1e-5
    assert error(losses["loss_fcos_ctr"], expected["loss_centerness"]) <= 1e-5
    if "grad_reg" in expected:
        (gradient,) = torch.autograd.grad(losses["loss_fcos_loc"], distances)
        assert error(gradient, expected["grad_reg"]) <= 1e-5


@pytest.mark.parametrize("scene", ["dense", "sparse", "none", "objects"])
def test_detections(scene):
    z = golden("inference")[f"g3_inputs_{scene}"]
    locations = make_locations(level_shapes(224, 288), STRIDES)
    for i in (0, 1):
        size = tuple(z["image_sizes_hw"][i].tolist())
        found = detect_one(
            z["logits"][i], z["reg_px"][i], z["ctr"][i, :, 0], locations, size,
            PostprocessOptions(), COMPAT,
        )  # fmt: skip
        check_same(found, *(CASES[scene][f"{k}{i}"] for k in ("bboxes", "scores", "labels")))
    if scene == "dense":  # the conventions matter
        other = detect_one(
            z["logits"][1], z["reg_px"][1], z["ctr"][1, :, 0], locations, size,
            PostprocessOptions(), replace(COMPAT, topk_by_class_score=False, product_scores=False),
        )  # fmt: skip
        assert not torch.allclose(other.scores[:10], found.scores[:10])
