"""The checker resizes and assigns as the model does."""

import numpy as np
import pytest

from fcos_d2.data.check.learnable import InputRule, boxes_without_positive, input_rule


def test_the_rule_is_that_of_the_config():
    assert input_rule() == InputRule()
    assert input_rule(min_size=64, max_size=96) == InputRule(min_size=64, max_size=96)
    official = input_rule("official/fcos_R_50_FPN_1x.yaml")
    assert official.assigner.center_radius is None and official.assigner.plus_one_area
    assert input_rule("torchvision/fcos_resnet50_fpn.yaml").locations.even_grid
    with pytest.raises(ValueError, match="min size <= max size"):
        input_rule(min_size=9, max_size=3)


def test_locations_are_those_of_the_model(train):
    """The same boxes are positive in FCOS itself."""
    import torch
    from support.inputs import ground_truth
    from support.models import level_shapes, tiny_fcos
    from support.parts import labels_and_targets

    from fcos_d2.modeling.locations import make_locations

    rng = np.random.default_rng(3)
    low = rng.uniform(0, 40, (60, 2))
    boxes = torch.tensor(np.concatenate([low, low + rng.uniform(1, 60, (60, 2))], 1))
    rule = InputRule(min_size=128, max_size=1000)
    model = tiny_fcos(num_classes=60)
    locations = make_locations(level_shapes(128, 128), model.strides)
    truth = ground_truth(boxes.float() * 1.28, list(range(60)), size=(128, 128))
    labels, _ = labels_and_targets(model, locations, [truth])
    expected = sorted(set(range(60)) - set(labels.unique().tolist()))
    assert 0 < len(expected) < 60
    assert boxes_without_positive(boxes, (100, 100), rule) == expected
