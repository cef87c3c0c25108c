"""An AP of 0 or no number comes with its reason."""

import sys

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, Instances
from support.tiny import tiny_overrides

from fcos_d2.engine import main as engine
from fcos_d2.engine.trainer import FCOSTrainer
from fcos_d2.evaluation.coco import explain_low_ap

NAN = float("nan")


def item(image, category, box=(10, 10, 20, 20)):
    return {"image_id": image, "category_id": category, "bbox": list(box)}


@pytest.mark.parametrize(
    ("ap", "detections", "annotations", "reason"),
    [
        (50.0, [], [], ""),
        (NAN, [item(1, 1)], [], "no annotations"),
        (NAN, [], [item(1, 1)], "detected nothing"),
        (0.0, [item(1, 1)], [item(2, 1)], "different images"),
        (0.0, [item(1, 1, (50, 50, 9, 9))], [item(1, 1)], "none of 1 detections overlaps"),
        (0.0, [item(1, 2)], [item(1, 1)], "always as another class"),
        (0.0, [item(1, 1), item(1, 2)], [item(1, 1)], "only 1 objects were found"),
        (-1.0, [], [item(1, 1)], "detected nothing"),
    ],
)
def test_the_reason_is_named(ap, detections, annotations, reason):
    text = explain_low_ap(ap, detections, annotations)
    assert reason in text and bool(reason) == bool(text)


def test_evaluation_of_an_untrained_model_says_so(tmp_path, tiny):
    words = tiny_overrides(tmp_path / "output", **{"MODEL.FCOS.INFERENCE_TH_TEST": 0.9})
    words = ["--config-file", "fcos_R_50_FPN_1x.yaml", "--eval-only", "--allow-partial", *words]
    engine.main(engine.make_parser().parse_args(words))
    log = (tmp_path / "output" / "log.txt").read_text()
    assert "AP is nan: the model detected nothing" in log


def test_the_fast_evaluator_gives_the_numbers_of_pycocotools(tmp_path, tiny, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    results = []
    for installed in (True, False):
        if not installed:
            monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
        cfg = engine.setup(
            engine.make_parser().parse_args(
                ["--config-file", "fcos_R_50_FPN_1x.yaml", *tiny_overrides(tmp_path / "output")]
            )
        )
        evaluator = FCOSTrainer.build_evaluator(cfg, tiny)
        evaluator.reset()
        generator = torch.Generator().manual_seed(0)
        for record in DatasetCatalog.get(tiny):
            truth = torch.tensor([a["bbox"] for a in record["annotations"]])
            noise = torch.randn(len(truth), 4, generator=generator) * 2
            boxes = torch.cat((truth[:, :2], truth[:, :2] + truth[:, 2:]), 1) + noise
            instances = Instances(
                (record["height"], record["width"]),
                pred_boxes=Boxes(boxes),
                scores=torch.rand(len(truth), generator=generator),
                pred_classes=torch.tensor([a["category_id"] for a in record["annotations"]]),
            )
            evaluator.process([record], [{"instances": instances}])
        results.append(evaluator.evaluate()["bbox"])
    fast, slow = results
    assert 0 < slow["AP"] < 100 and fast.keys() == slow.keys()
    for name, value in slow.items():
        assert fast[name] == pytest.approx(value, abs=1e-6, nan_ok=True), name
    log = (tmp_path / "output" / "log.txt").read_text()
    assert log.count("faster-coco-eval") == 1
