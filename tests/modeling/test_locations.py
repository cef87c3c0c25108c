"""Places of predictions and size ranges of levels."""

import math

import pytest
import torch

from fcos_d2.modeling.locations import make_locations, size_ranges


def test_first_location_is_the_centre_of_the_first_cell():
    locations = make_locations([(2, 3), (1, 2)], [8, 16])
    assert locations.points[0].tolist() == [4, 4]
    assert locations.points[6].tolist() == [8, 8]


def test_locations_run_row_by_row_from_fine_to_coarse():
    locations = make_locations([(2, 3), (1, 2)], [8, 16])
    first = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert locations.points.tolist() == [*first, [8, 8], [24, 8]]
    assert locations.strides.tolist() == [8] * 6 + [16] * 2
    assert locations.level_sizes == [6, 2]
    assert locations.points.dtype == locations.strides.dtype == torch.float32


def test_order_is_that_of_a_flattened_map():
    # A map of x coordinates, flattened as the model flattens predictions.
    x = (torch.arange(5) * 8 + 4).expand(1, 1, 3, 5)
    points = make_locations([(3, 5)], [8]).points
    assert torch.equal(points[:, 0], x.flatten(2)[0, 0].float())


def test_shapes_and_strides_must_match():
    with pytest.raises(ValueError, match="2 feature-map shapes but 1 strides"):
        make_locations([(2, 2), (1, 1)], [8])


def test_size_ranges_cover_all_sizes_without_gaps():
    ranges = size_ranges((64, 128, 256, 512), 5)
    assert ranges == [(0, 64), (64, 128), (128, 256), (256, 512), (512, math.inf)]
    assert size_ranges((), 1) == [(0, math.inf)]


@pytest.mark.parametrize(
    "boundaries, message",
    [
        ((64, 128), "SIZES_OF_INTEREST has 2 values.*5 feature levels need 4"),
        ((64, 128, 256, 512, 1024), "IN_FEATURES"),
        ((64, 64, 256, 512), "must be positive and increase"),
        ((0, 64, 128, 256), "must be positive and increase"),
        ((512, 256, 128, 64), "must be positive and increase"),
    ],
)
def test_impossible_boundaries_name_the_config_key(boundaries, message):
    with pytest.raises(ValueError, match=message):
        size_ranges(boundaries, 5)
