"""Norms inside convolutions: the same numbers, gradients and names."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

from fcos_d2.modeling.backbone import TimmBackbone
from fcos_d2.modeling.speed import FoldedConv2d, fold_for_inference, fold_for_training


def with_statistics(module, seed=0):
    """Norms that have seen something."""
    torch.manual_seed(seed)
    for each in module.modules():
        if getattr(each, "running_var", None) is not None:
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
            each.weight.data.uniform_(0.5, 2)
            each.bias.data.normal_()
    return module


def frozen_conv(bias=False, activation=None):
    conv = Conv2d(3, 8, 3, bias=bias, norm=FrozenBatchNorm2d(8), activation=activation)
    return with_statistics(conv)


def assert_close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, F.relu_])
def test_a_frozen_norm_folds_without_a_change_of_numbers_names_or_gradients(bias, activation):
    conv = frozen_conv(bias, activation)
    folded = copy.deepcopy(conv)
    assert fold_for_training(folded) == 1 and type(folded) is FoldedConv2d
    assert list(folded.state_dict()) == list(conv.state_dict())
    x = torch.randn(2, 3, 9, 9)
    a, b = conv(x), folded(x)
    assert_close(b, a)
    weights = torch.randn_like(a)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    for p, q in zip(conv.parameters(), folded.parameters(), strict=True):
        assert_close(q.grad, p.grad)


def test_norms_that_are_not_frozen_stay():
    conv = Conv2d(3, 8, 3, bias=False, norm=nn.BatchNorm2d(8))
    assert fold_for_training(conv) == 0 and type(conv) is Conv2d


@pytest.mark.parametrize("norm", ["", "FrozenBN"])
@pytest.mark.parametrize(
    "name, norms", [("resnet18", 20), ("tf_efficientnet_lite0", 48), ("densenet121", 59)]
)
def test_for_inference_norms_behind_convolutions_go(name, norms, norm):
    # In densenet121 the other 62 come before their convolution.
    backbone = with_statistics(TimmBackbone(name, norm=norm)).eval().double()
    x, example = torch.randn(1, 3, 96, 64).double(), torch.randn(1, 3, 64, 64).double()
    with torch.no_grad():
        before = backbone(x)
        assert fold_for_inference(backbone, example) == norms
        after = backbone(x)
    for feature in before:
        assert_close(after[feature], before[feature])


class Odd(nn.Module):
    """What looks like a pair and is none."""

    def __init__(self, kind):
        super().__init__()
        self.conv, self.bn, self.kind = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), kind

    def forward(self, x):
        y = self.conv(x)
        if self.kind == "conv output used twice":
            return self.bn(y) + y
        if self.kind == "conv called twice":
            return self.bn(self.conv(y))
        if self.kind == "norm called twice":
            return self.bn(self.bn(y))
        return self.bn(torch.sin(y))


@pytest.mark.parametrize(
    "kind",
    ["conv output used twice", "conv called twice", "norm called twice", "something between"],
)
def test_what_cannot_be_folded_stays_as_it_is(kind):
    module = with_statistics(Odd(kind)).eval()
    x = torch.randn(1, 3, 8, 8)
    state = copy.deepcopy(module.state_dict())
    before = module(x)
    assert fold_for_inference(module, x) == 0
    assert torch.equal(module(x), before)
    after = module.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_a_convolution_with_weights_of_its_own_making_stays():
    class Standardised(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight / self.weight.norm(), self.bias)

    module = with_statistics(nn.Sequential(Standardised(3, 4, 1), nn.BatchNorm2d(4))).eval()
    x = torch.randn(1, 3, 8, 8)
    before = module(x)
    assert fold_for_inference(module, x) == 0 and torch.equal(module(x), before)


def test_folding_for_inference_needs_inference():
    with pytest.raises(ValueError, match=r"call \.eval\(\) first"):
        fold_for_inference(nn.Sequential(nn.Conv2d(3, 3, 1)), torch.zeros(1, 3, 4, 4))
