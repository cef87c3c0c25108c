from pathlib import Path

import pytest

import fcos_d2
from fcos_d2.config import add_fcos_config, list_configs


@pytest.mark.parametrize("name", list_configs())
def test_every_config_merges_and_names_its_conventions(name):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file(name))
    assert cfg.MODEL.META_ARCHITECTURE == "FCOS"
    assert cfg.VERSION == 2
    text = Path(fcos_d2.get_config_file(name)).read_text()
    conventions = ["WEIGHTS:", "PIXEL_MEAN:", "PIXEL_STD:", "FORMAT:"]
    if "resnet" in cfg.MODEL.BACKBONE.NAME:
        conventions.append("STRIDE_IN_1X1:")
    if "DenseCL" in name or "Base-mmdet" in text or "dcn-caffe" in name:
        conventions = conventions[1:]  # the base config has it
    for key in conventions:
        assert key in text, f"{name} must state {key} beside its weights"


def test_adding_the_keys_twice_changes_nothing():
    cfg = fcos_d2.get_cfg()
    before = cfg.dump()
    add_fcos_config(cfg)
    assert cfg.dump() == before


def test_defaults_are_the_improved_fcos():
    fcos = fcos_d2.get_cfg().MODEL.FCOS
    assert fcos.NUM_CLASSES == 80
    assert (fcos.NMS_TH, fcos.TOP_BLOCK_IN, fcos.NORM) == (0.6, "p5", "GN")
    assert (fcos.CENTER_SAMPLE, fcos.POS_RADIUS, fcos.LOC_LOSS_TYPE) == (True, 1.5, "giou")
    assert (fcos.ASSIGNER, fcos.CLS_LOSS, fcos.BOX_REPRESENTATION) == ("fcos", "focal", "ltrb_relu")
    assert fcos.CENTERNESS_ON_REG and not fcos.THRESH_WITH_CTR
    assert not any(fcos.COMPAT.values())


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("MODEL.FCOS.NUM_CLASES", "MODEL.FCOS.NUM_CLASSES"),
        ("MODEL.FCOS.INFERENCE_TH", "MODEL.FCOS.INFERENCE_TH_TEST"),
        ("SOLVER.IMS_PER_BACH", "SOLVER.IMS_PER_BATCH"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path, key, nearest):
    cfg = fcos_d2.get_cfg()
    with pytest.raises(KeyError, match=nearest):
        cfg.merge_from_list([key, 3])
    head, *rest = key.split(".")
    lines = [f"{head}:"]
    for depth, part in enumerate(rest, start=1):
        lines.append("  " * depth + part + ":" + (" 3" if depth == len(rest) else ""))
    path = tmp_path / "wrong.yaml"
    path.write_text("VERSION: 2\n" + "\n".join(lines) + "\n")
    with pytest.raises(KeyError, match=nearest) as error:
        cfg.merge_from_file(str(path))
    assert "wrong.yaml" in str(error.value)


def test_config_file_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml")
    assert fcos_d2.get_config_file("configs/fcos_R_50_FPN_1x.yaml") == path
    with pytest.raises(FileNotFoundError, match=r"nearest: fcos_R_50_FPN_1x\.yaml"):
        fcos_d2.get_config_file("fcos_R50_FPN_1x.yaml")


def test_coco_recipe_is_the_published_one():
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    solver = cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WEIGHT_DECAY) == (16, 0.01, 1e-4)
    assert (solver.STEPS, solver.MAX_ITER, solver.WARMUP_ITERS) == ((60000, 80000), 90000, 1000)
    assert (cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN) == ((800,), 1333)
    assert cfg.DATASETS.TRAIN == ("coco_2017_train",)
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 and cfg.MODEL.PIXEL_STD == [1.0, 1.0, 1.0]


def test_whole_numbers_may_stand_for_floats_on_the_command_line():
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_list(["SOLVER.BASE_LR", "1", "MODEL.FCOS.POS_RADIUS", 2])
    assert cfg.SOLVER.BASE_LR == 1.0 and isinstance(cfg.MODEL.FCOS.POS_RADIUS, float)
    with pytest.raises(ValueError, match="Type mismatch"):
        cfg.merge_from_list(["SOLVER.BASE_LR", "fast"])
