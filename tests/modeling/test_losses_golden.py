"""Targets, losses and gradients against the official FCOS and AdelaiDet (see golden/pack.py)."""

import re

import pytest
import torch
from support.compare import error
from support.golden import golden
from support.inputs import ground_truth
from support.models import STRIDES, GivenDistances, level_shapes, maps, tiny_fcos
from support.parts import labels_and_targets, losses_of, matched_boxes

from fcos_d2.modeling.box_coder import ltrb_distances
from fcos_d2.modeling.compat import Compat
from fcos_d2.modeling.locations import make_locations
from fcos_d2.modeling.losses.box import centerness_targets
from fcos_d2.modeling.losses.focal import sigmoid_focal_loss

CASES = sorted(golden("losses"))
OFFICIAL = [c for c in CASES if c.startswith("official")]
ADELAIDET = [c for c in CASES if c.startswith("adelaidet")]
G2 = [c for c in sorted(golden("losses_g2")) if c.startswith("radius")]
OFFICIAL_NAME = re.compile(r"radius(?P<radius>[\d.]+)_(?P<kind>\w+)_norm(?P<norm>\d)")
NAMES = {
    "loss_cls": "loss_fcos_cls",
    "loss_reg": "loss_fcos_loc",
    "loss_centerness": "loss_fcos_ctr",
}
LOCATIONS = make_locations(level_shapes(256, 320), STRIDES)
TOLERANCE = 1e-5


def official_model(case, num_classes):
    option = OFFICIAL_NAME.search(case).groupdict()
    norm = option["norm"] == "1"
    model = tiny_fcos(
        num_classes,
        head={"box_coder": GivenDistances(in_strides=norm)},
        center_radius=float(option["radius"]) or None,
        loc_loss_type=option["kind"],
        compat=Compat(one_pixel_boxes=True),
    )
    return model, norm


def adelaidet_model(case):
    normalizer = "moving_fg" if "moving_fg" in case else "all" if "_all_" in case + "_" else "fg"
    return tiny_fcos(
        head={"box_coder": GivenDistances(in_strides=True)},
        center_radius=1.5 if "center1.5" in case else None,
        loc_loss_type=next(k for k in ("linear_iou", "giou", "iou") if f"_{k}_quality" in case),
        box_quality="iou" if "quality-iou" in case else "ctrness",
        cls_loss_normalizer=normalizer,
    )


def images(empty=()):
    z = golden("losses")["inputs"]
    gt = [ground_truth(z[f"gt_boxes_image{i}"], z[f"gt_classes_image{i}"]) for i in range(3)]
    return [x[:0] if i in empty else x for i, x in enumerate(gt)]


def empty_images(case):
    return (0, 1, 2) if "allempty" in case else (1,) if "image1empty" in case else ()


def predictions(unit):
    """Logits, distances and centerness as leaves that collect gradients."""
    z = golden("losses")["inputs"]
    reg = z["reg"] if unit == "strides" else z["reg"] * LOCATIONS.strides[:, None]
    return [x.clone().requires_grad_() for x in (z["logits"], reg, z["ctr"][..., 0])]


def losses(model, leaves, locations, gt):
    return losses_of(model, *(maps(x, locations) for x in leaves), locations, gt)


def check_targets(model, gt, expected, suffix=""):
    labels, targets = labels_and_targets(model, LOCATIONS, gt)
    assert torch.equal(labels, expected["labels" + suffix])
    positive = labels < model.head.num_classes
    expected_targets = expected["reg_targets_px" + suffix][positive]
    assert torch.equal(targets[positive], expected_targets)
    assert positive.sum() == expected["num_positives" + suffix]
    centerness = expected["centerness_targets" + suffix][positive]
    assert error(centerness_targets(targets[positive]), centerness) <= 1e-6
    if "gt_index_in_batch" + suffix in expected:
        assert torch.equal(
            matched_boxes(model, LOCATIONS, gt), expected["gt_index_in_batch" + suffix]
        )


def check_losses(found, leaves, expected, names, suffix=""):
    assert set(found) == set(names.values())
    for theirs, ours in names.items():
        for value in (expected[theirs + suffix], expected[f"{theirs}_float64{suffix}"].squeeze()):
            assert error(found[ours], value) <= TOLERANCE, ours
    grads = torch.autograd.grad(sum(found.values()), leaves)
    for grad, name in zip(grads, ("logits", "reg", "ctr")):
        assert error(grad, expected[f"grad_{name}{suffix}"].reshape(grad.shape)) <= TOLERANCE, name


def test_locations_are_those_of_the_references():
    assert torch.equal(LOCATIONS.points, golden("losses")["inputs"]["points"])


@pytest.mark.parametrize("case", OFFICIAL)
def test_losses_and_gradients_equal_the_official_code(case):
    expected = golden("losses")[case]
    model, norm = official_model(case, 6)
    check_targets(model, images(), expected)
    leaves = predictions("strides" if norm else "pixels")
    check_losses(losses(model, leaves, LOCATIONS, images()), leaves, expected, NAMES)


@pytest.mark.parametrize("case", [c for c in ADELAIDET if "moving_fg" not in c])
def test_losses_and_gradients_equal_adelaidet(case):
    expected = golden("losses")[case]
    model, gt, leaves = adelaidet_model(case), images(empty_images(case)), predictions("strides")
    check_targets(model, gt, expected)
    names = {k: k for k in expected if re.fullmatch("loss_fcos_(cls|loc|ctr|iou)", k)}
    check_losses(losses(model, leaves, LOCATIONS, gt), leaves, expected, names)
    if "allempty" in case:
        assert not expected["grad_reg"].any() and not expected["grad_ctr"].any()


def test_moving_normalizer_follows_adelaidet_over_two_steps():
    case = "adelaidet_loss_center1.5_giou_quality-ctrness_moving_fg"
    expected, model = golden("losses")[case], adelaidet_model(case)
    names = {f"loss_fcos_{k}": f"loss_fcos_{k}" for k in ("cls", "loc", "ctr")}
    for suffix, empty in (("_step0", ()), ("_step1", (1,))):
        gt, leaves = images(empty), predictions("strides")
        check_targets(model, gt, expected, suffix)
        check_losses(losses(model, leaves, LOCATIONS, gt), leaves, expected, names, suffix)
        assert error(model.moving_num_fg, expected["moving_num_fg_after" + suffix].squeeze()) < 1e-6
    assert "moving_num_fg" in model.state_dict()


@pytest.mark.parametrize("case", G2)
def test_larger_batch_equals_the_official_code(case):
    inputs, expected = golden("losses_g2")["inputs"], golden("losses_g2")[case]
    model, norm = official_model(case, 20)
    locations = make_locations(level_shapes(544, 608), STRIDES)
    gt = [ground_truth(inputs[f"boxes_{i}"], inputs[f"classes0_{i}"], (544, 608)) for i in (0, 1)]
    labels, targets = labels_and_targets(model, locations, gt)
    assert torch.equal(labels, expected["labels"].long())
    positive = labels < 20
    assert torch.equal(targets[positive], expected["reg_targets_px"][positive])

    reg = inputs["reg_px"] / (locations.strides[:, None] if norm else 1)
    ctr = inputs["ctr"][..., 0]
    leaves = [x.clone().requires_grad_() for x in (reg, ctr)]
    # Class logits are kept of the first image only: the rest does not depend on them.
    logits = torch.zeros(*ctr.shape, 20)
    found = losses(model, (logits, *leaves), locations, gt)
    _, loss_loc, loss_ctr = expected["losses_two_float64"]
    assert error(found["loss_fcos_loc"], loss_loc) <= TOLERANCE
    assert error(found["loss_fcos_ctr"], loss_ctr) <= TOLERANCE
    grads = torch.autograd.grad(sum(found.values()), leaves)
    for grad, name in zip(grads, ("grad_reg", "grad_ctr")):
        assert error(grad, expected[name].reshape(grad.shape)) <= TOLERANCE, name

    found = losses(model, (inputs["logits_0"], reg[:1], ctr[:1]), locations, gt[:1])
    for ours, value in zip(NAMES.values(), expected["losses_im0_float64"]):
        assert error(found[ours], value) <= TOLERANCE, ours


def focal_reference(logits, positive, alpha=0.25, gamma=2.0):
    """The formula of the paper, in float64 and without a tensor library's shortcuts."""
    x = torch.where(positive, logits, -logits)  # of the right answer
    weight = torch.where(positive, alpha, 1 - alpha).double()
    return weight * torch.sigmoid(-x) ** gamma * -torch.nn.functional.logsigmoid(x)


def focal_losses_and_gradients(logits):
    """Columns: logits of positives, of negatives."""
    losses, grads = [], []
    for label in (0, 1):
        x = logits.float().clone().requires_grad_()
        where = torch.tensor([-label])  # the only location, or none
        each = [sigmoid_focal_loss(v.reshape(1, 1, 1, 1), where, where * 0) for v in x]
        each = torch.stack(each)
        losses.append(each.detach())
        grads.append(torch.autograd.grad(each.sum(), x)[0])
    return torch.stack(losses, 1), torch.stack(grads, 1)


def test_focal_loss_of_extreme_logits_equals_fvcore_in_float64():
    z = golden("losses_g2")["focal"]
    losses, grads = focal_losses_and_gradients(z["logit"])
    assert z["logit"].abs().max() >= 100
    # fvcore computes 1 - p and so loses the digits of tiny losses; the next test has them.
    torch.testing.assert_close(losses, z["loss"].float(), rtol=1e-5, atol=1e-11)
    torch.testing.assert_close(grads, z["grad"].float(), rtol=1e-5, atol=1e-11)


def test_focal_loss_neither_overflows_nor_loses_its_gradient():
    logits = torch.tensor([-1e4, -100.0, -20.0, -1.0, 0.0, 1.0, 20.0, 100.0, 1e4])
    losses, grads = focal_losses_and_gradients(logits)
    x = logits.double()[:, None].repeat(1, 2).requires_grad_()
    expected = focal_reference(x, torch.tensor([True, False]).expand(9, 2))
    (expected_grads,) = torch.autograd.grad(expected.sum(), x)
    # A loss is what is left of a sum in float64 (up to 1e4 here); of gradients no digit is lost.
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(grads.double(), expected_grads, rtol=1e-5, atol=1e-37)
    assert grads[0, 0] == pytest.approx(-0.25) and grads[-1, 1] == pytest.approx(0.75)


def test_targets_are_distances_to_the_matched_box():
    gt = images()
    model = tiny_fcos()
    labels, targets = labels_and_targets(model, LOCATIONS, gt)
    matched = matched_boxes(model, LOCATIONS, gt)
    boxes = torch.cat([x.gt_boxes.tensor for x in gt])
    classes = torch.cat([x.gt_classes for x in gt])
    rows, columns = (labels < 6).nonzero(as_tuple=True)
    owners = matched[rows, columns]
    assert torch.equal(classes[owners], labels[rows, columns])
    distances = ltrb_distances(LOCATIONS.points[columns], boxes[owners])
    assert torch.equal(distances, targets[rows, columns]) and (distances > 0).all()
