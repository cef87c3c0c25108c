"""The head with the weights and the outputs of the official FCOS and AdelaiDet."""

import pytest
import torch
from support.compare import error
from support.golden import golden
from support.models import STRIDES, flat
from support.parts import head_outputs

from fcos_d2.modeling.box_coder import LtrbExp, LtrbRelu
from fcos_d2.modeling.head import FCOSHead

CASES = sorted(golden("heads"))
TOLERANCE = 1e-5


def load(case):
    """Our head with their weights, and their feature maps."""
    arrays = golden("heads")[case]
    state = {
        k[6:].replace("centerness.", "ctrness."): v for k, v in arrays.items() if "state:" in k
    }
    convs = 4 if case.startswith("g1") else 2
    norm = next((n for n in ("BN", "none") if f"_{n}_" in case), "GN")
    head = FCOSHead(
        in_channels=32,
        num_levels=5,
        num_classes=len(state["cls_logits.bias"]),
        num_cls_convs=convs,
        num_box_convs=convs,
        num_share_convs=int("share1" in case),
        norm=norm,
        use_deformable="dcn" in case,
        use_scale="scale0" not in case,
        centerness_on_reg="ctrOnCls" not in case,
        box_coder=LtrbExp() if "norm0" in case else LtrbRelu(),
    )
    counters = {k: v for k, v in head.state_dict().items() if k.endswith("num_batches_tracked")}
    head.load_state_dict({**counters, **state}, strict=True)
    return head, [arrays[f"feature_p{k}"] for k in range(3, 8)], arrays


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_head_gives_the_outputs_of_the_reference(case):
    head, features, expected = load(case)
    sizes = torch.tensor([x.shape[2] * x.shape[3] for x in features])
    strides = torch.tensor(STRIDES).repeat_interleave(sizes)[:, None]
    compared = 0
    for mode in sorted({k.split("_")[0] for k in expected} & {"train", "eval"}):
        logits, distances, quality = (
            flat(x) for x in head_outputs(head.train(mode == "train"), features)
        )
        if mode == "eval" and case.startswith("official") and head.box_coder.in_strides:
            distances = distances * strides  # theirs leave the head in pixels then
        for name, ours in (("logits", logits), ("reg", distances), ("ctr", quality)):
            if f"{mode}_{name}" in expected:
                theirs = expected[f"{mode}_{name}"]
                for a, b in zip(ours.split(sizes.tolist(), 1), theirs.split(sizes.tolist(), 1)):
                    assert error(a, b, theirs.abs().max().item()) <= TOLERANCE, (mode, name)
                compared += 1
    assert compared == (6 if case.startswith("official") else 3)


def test_every_published_variant_of_the_head_is_covered():
    assert len(CASES) == 14
    assert sum("official_head_ctrOn" in c for c in CASES) == 4
    assert sum("adelaidet" in c for c in CASES) == 9
