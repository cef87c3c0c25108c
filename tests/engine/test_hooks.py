"""Best checkpoint, early stop, losses on other images, averaged weights."""

import json

import pytest
import torch
from support.inputs import ground_truth
from support.models import tiny_fcos
from support.tiny import tiny_overrides

from fcos_d2.engine import main as engine
from fcos_d2.engine.ema import EMA
from fcos_d2.engine.hooks import validation_losses
from fcos_d2.engine.trainer import FCOSTrainer


def run(output, scores, monkeypatch, **changes):
    """Train with evaluations that give these AP, one after another."""
    given = iter(scores)
    monkeypatch.setattr(
        FCOSTrainer, "test", classmethod(lambda *_, **__: {"bbox": {"AP": next(given)}})
    )
    options = {
        "SOLVER.MAX_ITER": 6,
        "TEST.EVAL_PERIOD": 1,
        "SOLVER.CHECKPOINT_PERIOD": 1,
        **changes,
    }
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml", *tiny_overrides(output, **options)]
    return engine.main(engine.make_parser().parse_args(words))


def iteration(path):
    return torch.load(path, weights_only=True)["iteration"]


def test_the_best_checkpoint_is_kept(tmp_path, tiny, monkeypatch):
    run(tmp_path, [10.0, 30.0, float("nan"), 20.0, 30.0, 25.0], monkeypatch)
    assert iteration(tmp_path / "model_best.pth") == 1
    assert iteration(tmp_path / "model_final.pth") == 5
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"


def test_training_ends_when_nothing_improves_and_leaves_a_final_checkpoint(
    tmp_path, tiny, monkeypatch
):
    scores = [10.0, 12.0, 11.0, 11.5, 99.0]
    results = run(tmp_path, scores, monkeypatch, **{"TEST.EARLY_STOP": 2})
    assert results["bbox"]["AP"] == 11.5
    assert iteration(tmp_path / "model_best.pth") == 1
    assert iteration(tmp_path / "model_final.pth") == 3


def test_the_best_so_far_survives_a_resume(tmp_path, tiny, monkeypatch):
    first = {"SOLVER.MAX_ITER": 3}
    run(tmp_path, [10.0, 40.0, 20.0], monkeypatch, **first)
    given = iter([30.0, 30.0, 30.0])
    monkeypatch.setattr(
        FCOSTrainer, "test", classmethod(lambda *_, **__: {"bbox": {"AP": next(given)}})
    )
    options = {"SOLVER.MAX_ITER": 6, "TEST.EVAL_PERIOD": 1}
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml", "--resume"]
    engine.main(engine.make_parser().parse_args([*words, *tiny_overrides(tmp_path, **options)]))
    assert iteration(tmp_path / "model_best.pth") == 1


@pytest.mark.parametrize("normalizer", ["fg", "moving_fg", "all"])
def test_losses_on_other_images_change_nothing_in_the_model(normalizer):
    model = tiny_fcos(head={"norm": "BN"}, cls_loss_normalizer=normalizer).train()
    model.head.cls_tower.eval()  # a module with a mode of its own
    data = [
        {
            "image": torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8),
            "instances": ground_truth([[4, 4, 40, 50]], [1], (64, 64)),
        }
    ]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    losses = validation_losses(model, [data, data])
    assert losses["total_loss"] == pytest.approx(
        sum(v for k, v in losses.items() if k != "total_loss")
    )
    assert set(losses) == {"loss_fcos_cls", "loss_fcos_loc", "loss_fcos_ctr", "total_loss"}
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]


def test_validation_loss_is_logged(tmp_path, tiny):
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml"]
    words += tiny_overrides(tmp_path / "output", **{"TEST.VAL_LOSS": True})
    engine.main(engine.make_parser().parse_args(words))
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    assert [v for v in map(json.loads, lines) if v.get("val_total_loss", 0) > 0]


def test_averages_follow_the_weights_and_are_what_evaluation_sees():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    ema = EMA(model, decay=0.9)
    expected = 0.0
    for step in range(1, 40):
        torch.nn.init.constant_(model.weight, float(step))
        ema.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    with ema.swapped():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 39
    again = EMA(model)
    again.load_state_dict(ema.state_dict())
    assert again.steps == 39 and again.average["weight"].item() == pytest.approx(expected)
    with pytest.raises(ValueError, match="between 0 and 1"):
        EMA(model, decay=1.0)


def test_evaluation_of_a_checkpoint_takes_its_averages(tmp_path, tiny, caplog):
    options = {"SOLVER.EMA.ENABLED": True, "SOLVER.MAX_ITER": 3}
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml", *tiny_overrides(tmp_path, **options)]
    engine.main(engine.make_parser().parse_args(["--skip-test", *words]))
    saved = torch.load(tmp_path / "model_final.pth", weights_only=True)
    words += ["MODEL.WEIGHTS", str(tmp_path / "model_final.pth")]
    args = engine.make_parser().parse_args(["--eval-only", *words])
    model = engine.load_for_evaluation(engine.load_cfg(args))
    key = "head.cls_logits.weight"
    assert torch.equal(model.state_dict()[key], saved["ema"]["model"][key])
    assert not torch.equal(saved["model"][key], saved["ema"]["model"][key])
