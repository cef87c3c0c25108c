"""Comparisons with a tolerance."""

import torch


def error(actual, expected, scale=None):
    """Largest difference as a fraction of ``scale``, by default of the largest value expected."""
    actual, expected = actual.detach().double(), expected.double()
    assert actual.shape == expected.shape and actual.isfinite().all()
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().item() if scale is None else scale
    return (actual - expected).abs().max().item() / (scale or 1.0)


def check_same(found, boxes, scores, classes, pixels=0.01):
    """Assert that exactly the expected detections are found, each once."""
    assert len(found) == len(boxes)
    assert found.scores.diff().le(0).all()
    ours = torch.cat((found.pred_boxes.tensor, found.scores[:, None]), 1)
    theirs = torch.cat((boxes, scores[:, None]), 1)
    tolerance = torch.cat(
        ((1e-5 * boxes.abs()).clamp(min=pixels), torch.full_like(boxes[:, :1], 1e-5)), 1
    )
    same = ((ours[:, None] - theirs[None]).abs() <= tolerance).all(2)
    same &= found.pred_classes[:, None] == classes[None]
    free = torch.ones(len(ours), dtype=torch.bool)
    for column in same.T:  # greedy: detections closer than the tolerance are interchangeable
        candidates = (column & free).nonzero()
        assert len(candidates), "an expected detection is missing"
        free[candidates[0]] = False
