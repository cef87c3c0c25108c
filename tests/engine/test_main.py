"""train_net.py's main: training, evaluation, resuming, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import MetadataCatalog
from support.tiny import tiny_overrides, write_coco

from fcos_d2.engine import main as engine
from fcos_d2.engine.trainer import FCOSTrainer

CONFIG = "fcos_R_50_FPN_1x.yaml"


def arguments(*words):
    return engine.make_parser().parse_args(["--config-file", CONFIG, *words])


def metrics(output):
    return [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]


def test_trains_evaluates_and_maps_category_ids_back(tmp_path, tiny):
    output = tmp_path / "output"
    results = engine.main(arguments(*tiny_overrides(output)))
    assert "AP50" in results["bbox"]
    assert metrics(output)[-1]["bbox/AP50"] == results["bbox"]["AP50"]
    found = json.loads((output / "inference" / "coco_instances_results.json").read_text())
    assert found and {d["category_id"] for d in found} <= {3, 7, 90}
    assert MetadataCatalog.get(tiny).thing_classes == ["class 3", "class 7", "class 90"]
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 1


def test_ground_truth_as_detections_gives_ap_100(tmp_path, tiny):
    from detectron2.data import DatasetCatalog
    from detectron2.structures import Boxes, BoxMode, Instances

    cfg = engine.setup(arguments(*tiny_overrides(tmp_path / "output")))
    evaluator = FCOSTrainer.build_evaluator(cfg, tiny)
    evaluator.reset()
    for record in DatasetCatalog.get(tiny):
        xyxy = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
            for a in record["annotations"]
        ]
        instances = Instances(
            (record["height"], record["width"]),
            pred_boxes=Boxes(torch.tensor(xyxy)),
            scores=torch.ones(len(xyxy)),
            pred_classes=torch.tensor([a["category_id"] for a in record["annotations"]]),
        )
        evaluator.process([record], [{"instances": instances}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def test_skip_test_evaluates_nothing(tmp_path, tiny):
    output = tmp_path / "output"
    words = tiny_overrides(output, **{"DATASETS.TEST": "('not registered',)"})
    assert engine.main(arguments("--skip-test", *words)) is None
    assert not (output / "inference").exists()


def test_adamw_follows_detectron2s_options_for_norms_and_biases(tmp_path, tiny):
    options = {"SOLVER.OPTIMIZER": "AdamW", "SOLVER.WEIGHT_DECAY_NORM": 0.0}
    options |= {"SOLVER.BACKBONE_MULTIPLIER": 0.25, "SOLVER.BASE_LR": 0.1}
    cfg = engine.setup(arguments(*tiny_overrides(tmp_path / "output", **options)))
    model = FCOSTrainer.build_model(cfg)
    optimizer = FCOSTrainer.build_optimizer(cfg, model)
    assert isinstance(optimizer, torch.optim.AdamW)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    group_norm = model.head.cls_tower[1]
    assert decays[id(group_norm.weight)] == 0.0
    assert decays[id(model.head.cls_logits.weight)] == cfg.SOLVER.WEIGHT_DECAY
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert rates[id(model.head.cls_logits.weight)] == pytest.approx(0.1)
    assert rates[id(model.backbone.fpn_lateral3.weight)] == pytest.approx(0.1)
    assert rates[id(model.backbone.bottom_up.res4[0].conv1.weight)] == pytest.approx(0.025)
    wrong = tiny_overrides(tmp_path / "output", **{"SOLVER.OPTIMIZER": "Adam"})
    with pytest.raises(ValueError, match="expected SGD or AdamW"):
        engine.main(arguments(*wrong))


@pytest.mark.parametrize(
    "value, said", [("int8", "is 'int8', expected one of fp32"), ("fp16", "fp16 does not")]
)
def test_a_wrong_precision_of_evaluation_is_named_before_training(tmp_path, tiny, value, said):
    words = tiny_overrides(tmp_path / "output", **{"TEST.PRECISION": value})
    with pytest.raises(ValueError, match=f"TEST.PRECISION {said}"):
        engine.prepare(arguments(*words))


def test_resume_continues_where_it_stopped(tmp_path, tiny, caplog):
    output = tmp_path / "output"
    engine.main(arguments("--skip-test", *tiny_overrides(output)))
    longer = tiny_overrides(output, **{"SOLVER.MAX_ITER": 4, "MODEL.WEIGHTS": "ignored.pth"})
    engine.main(arguments("--skip-test", "--resume", *longer))
    saved = torch.load(output / "model_final.pth", weights_only=True)
    assert saved["iteration"] == 3
    assert [row["iteration"] for row in metrics(output)] == [1, 3]
    trainer = engine.make_trainer(arguments("--skip-test", "--resume", *longer))
    assert trainer.start_iter == 4
    log = (output / "log.txt").read_text()
    assert "Nothing is left to train" in log
    assert "Resumed from" in log


def test_eval_only_refuses_a_head_that_did_not_load(tmp_path, tiny):
    output = tmp_path / "output"
    words = tiny_overrides(output)
    with pytest.raises(ValueError, match="random head"):
        engine.main(arguments("--eval-only", *words))
    engine.main(arguments("--skip-test", *words))
    trained = ["MODEL.WEIGHTS", str(output / "model_final.pth")]
    assert "bbox" in engine.main(arguments("--eval-only", *words, *trained))
    assert "bbox" in engine.main(arguments("--eval-only", "--resume", *words))
    state = torch.load(output / "model_final.pth", weights_only=True)["model"]
    backbone = {k: v for k, v in state.items() if not k.startswith("head.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    partial = [*words, "MODEL.WEIGHTS", str(tmp_path / "backbone.pth")]
    with pytest.raises(ValueError, match="weights of the head"):
        engine.main(arguments("--eval-only", *partial))
    assert "bbox" in engine.main(arguments("--eval-only", "--allow-partial", *partial))


def test_wrong_number_of_classes_stops_before_the_model_is_built(tmp_path, tiny, monkeypatch):
    def build(cfg):
        raise AssertionError("the model was built")

    monkeypatch.setattr(FCOSTrainer, "build_model", build)
    words = tiny_overrides(tmp_path / "output", **{"MODEL.FCOS.NUM_CLASSES": 80})
    with pytest.raises(ValueError, match=r"is 80.* tiny has 3 .*MODEL\.FCOS\.NUM_CLASSES 3"):
        engine.main(arguments(*words))


def test_sets_with_different_classes_are_refused(tmp_path, tiny, register):
    path = write_coco(tmp_path / "other", ids=(1, 2, 3))
    register("other", path, tmp_path / "other" / "images")
    words = tiny_overrides(tmp_path / "output", **{"DATASETS.TEST": "('other',)"})
    with pytest.raises(ValueError, match="other and tiny have different classes"):
        engine.main(arguments(*words))


def test_data_that_is_not_there_is_named(tmp_path, tiny, register):
    def run(name):
        engine.main(arguments(*tiny_overrides(tmp_path / "output", name)))

    with pytest.raises(KeyError, match="nearest: tiny"):
        run("tinny")
    register("no_json", tmp_path / "none.json", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"annotations of no_json are missing.*none\.json"):
        run("no_json")
    (tmp_path / "broken.json").write_text('{"images": [')
    register("broken", tmp_path / "broken.json", tmp_path)
    with pytest.raises(ValueError, match=r"broken\.json is not in COCO's format"):
        run("broken")
    register("no_folder", tmp_path / "data" / "data.json", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="images of no_folder are missing"):
        run("no_folder")


def test_a_missing_image_stops_training_with_its_name(tmp_path, tiny):
    for i in range(4):
        Path(tmp_path, "data", "images", f"{i}.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image .*\.png is in the annotations but not on"):
        engine.main(arguments("--skip-test", *tiny_overrides(tmp_path / "output")))


def test_a_batch_larger_than_the_data_set_works(tmp_path, tiny):
    words = tiny_overrides(tmp_path / "output", **{"SOLVER.IMS_PER_BATCH": 7})
    assert engine.main(arguments("--skip-test", *words)) is None


def test_images_without_boxes_can_be_trained_on(tmp_path, register):
    path = write_coco(tmp_path / "empty", empty=range(4))
    register("empty", path, tmp_path / "empty" / "images")
    options = {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}
    output = tmp_path / "output"
    engine.main(arguments("--skip-test", *tiny_overrides(output, "empty", **options)))
    assert metrics(output)[-1]["loss_fcos_loc"] == 0.0


def test_the_coco_config_builds_model_optimizer_and_loaders(tmp_path, register):
    path = write_coco(tmp_path / "data", ids=range(1, 81))
    register("coco_like", path, tmp_path / "data" / "images")
    small = [
        "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "DATASETS.TRAIN", "('coco_like',)",
        "DATASETS.TEST", "('coco_like',)", "DATALOADER.NUM_WORKERS", "0",
        "INPUT.MIN_SIZE_TRAIN", "(64,)", "OUTPUT_DIR", str(tmp_path / "output"),
    ]  # fmt: skip
    trainer = engine.make_trainer(arguments("--num-gpus", "8", *small))
    assert trainer.max_iter == 90000
    assert trainer.scheduler.get_last_lr()[0] == pytest.approx(1e-2 * 1e-3)  # first of warm-up
    assert len(next(iter(trainer.data_loader))) == 16
    assert trainer.optimizer.defaults["lr"] == 0.01
    learning = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in trainer.model.backbone.bottom_up.stem.parameters())
    assert learning > 30e6 and frozen > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.DEVICE", "cpu", "--resume"], "--resume comes after"),
        (["SOLVER.MAX_ITER"], "KEY VALUE pairs"),
    ],
)
def test_misplaced_words_are_rejected_with_the_reason(words, message, capsys):
    with pytest.raises(SystemExit):
        engine.run(["--config-file", CONFIG, *words])
    assert message in capsys.readouterr().err


def test_user_errors_end_in_one_line(tmp_path, tiny):
    words = tiny_overrides(tmp_path / "output", **{"MODEL.FCOS.NUM_CLASSES": 4})
    with pytest.raises(SystemExit, match="NUM_CLASSES is 4"):
        engine.run(["--config-file", CONFIG, *words])


def test_cpu_is_used_where_cuda_is_absent(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    words = tiny_overrides(tmp_path / "output", **{"MODEL.DEVICE": "cuda"})
    cfg = engine.setup(arguments(*words))
    assert cfg.MODEL.DEVICE == "cpu"
    log = (tmp_path / "output" / "log.txt").read_text()
    assert log.count("CUDA is not available") == 1


def test_shared_images_and_other_detectors_keys_are_warned_of(tmp_path, tiny):
    output = tmp_path / "output"
    words = tiny_overrides(output, **{"MODEL.RETINANET.NUM_CLASSES": 3, "SOLVER.MAX_ITER": 1})
    engine.prepare(arguments(*words))
    log = (output / "log.txt").read_text()
    assert "No effect on FCOS: MODEL.RETINANET.NUM_CLASSES" in log
    assert "4 of 4 test images are also trained on" in log


def test_a_test_set_without_annotations_is_refused_before_training(tmp_path, register, tiny):
    path = write_coco(tmp_path / "empty", empty=(0, 1, 2, 3))
    register("nothing", path, tmp_path / "empty" / "images")
    words = tiny_overrides(tmp_path / "output", **{"DATASETS.TEST": "('nothing',)"})
    with pytest.raises(ValueError, match="nothing has no annotations"):
        engine.prepare(arguments(*words))


def test_the_start_block_says_what_is_about_to_happen(tmp_path, tiny):
    words = tiny_overrides(tmp_path / "output", **{"SOLVER.ACCUMULATE": 2})
    engine.prepare(arguments("--skip-test", *words))
    log = (tmp_path / "output" / "log.txt").read_text()
    for part in (
        "tiny: 4 images, 12 boxes",
        "3: class 3, class 7, class 90",
        "2 on 1 process(es), in 2 micro-batches",
        "0.00125 is usual with SGD for a batch of 2",
        "2 = 1.0 epochs",
        "random (MODEL.WEIGHTS is empty)",
        "iteration 0",
    ):
        assert part in log, part


def test_running_out_of_memory_says_what_to_change(monkeypatch):
    def fail():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine, "prepare", lambda args: fail)
    with pytest.raises(SystemExit, match=r"SOLVER\.ACCUMULATE 2"):
        engine._main_with_clear_end(arguments())


def test_test_time_augmentation_evaluates_from_the_files(tmp_path, tiny):
    options = {"TEST.AUG.ENABLED": True, "TEST.AUG.MIN_SIZES": "(64, 96)"}
    words = tiny_overrides(tmp_path / "output", **options)
    results = engine.main(arguments("--eval-only", "--allow-partial", *words))
    assert "AP" in results["bbox"]
