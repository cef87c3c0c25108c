"""Epochs and linear scaling, as arithmetic."""

import pytest

import fcos_d2
from fcos_d2.engine.schedule import advise_learning_rate, apply_epochs, scale_to_batch


def config(**solver):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    for key, value in solver.items():
        cfg.SOLVER[key] = value
    return cfg


def test_epochs_become_iterations_and_steps_keep_their_share():
    cfg = config(MAX_EPOCHS=12, IMS_PER_BATCH=4)
    apply_epochs(cfg, num_images=30)
    assert cfg.SOLVER.MAX_ITER == 90  # 12 * 30 / 4
    assert cfg.SOLVER.STEPS == (60, 80)  # of 90000: 60000 and 80000


def test_steps_can_be_epochs_too():
    cfg = config(MAX_EPOCHS=12, STEPS_EPOCHS=(8, 11), IMS_PER_BATCH=4)
    apply_epochs(cfg, num_images=30)
    assert cfg.SOLVER.STEPS == (60, 83)
    with pytest.raises(ValueError, match="must lie before"):
        apply_epochs(config(MAX_EPOCHS=12, STEPS_EPOCHS=(12,)), 30)
    with pytest.raises(ValueError, match=r"needs SOLVER\.MAX_EPOCHS"):
        apply_epochs(config(STEPS_EPOCHS=(12,)), 30)


def test_without_epochs_nothing_changes():
    cfg = config()
    apply_epochs(cfg, 30)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS) == (90000, (60000, 80000))


def test_linear_scaling_sees_the_same_number_of_images():
    cfg = config(REFERENCE_BATCH=16, IMS_PER_BATCH=2)
    scale_to_batch(cfg)
    solver = cfg.SOLVER
    assert abs(solver.BASE_LR - 0.00125) < 1e-12
    assert (solver.MAX_ITER, solver.STEPS) == (720000, (480000, 640000))
    assert solver.WARMUP_ITERS == 8000
    again = cfg.dump()
    scale_to_batch(cfg)
    assert cfg.dump() == again


def test_no_scaling_unless_asked_for():
    cfg = config(IMS_PER_BATCH=2)
    before = cfg.dump()
    scale_to_batch(cfg)
    assert cfg.dump() == before


def test_advice_names_the_usual_rate_and_warns_when_far_off():
    assert advise_learning_rate(config()) == "0.01 is usual with SGD for a batch of 16"
    assert "more than twice off" in advise_learning_rate(config(IMS_PER_BATCH=2))
    assert "0.00125" in advise_learning_rate(config(IMS_PER_BATCH=2, BASE_LR=0.00125))
    assert advise_learning_rate(config(OPTIMIZER="AdamW")) == ""
