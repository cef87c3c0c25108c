"""Conversion from files: recognized and refused files, and the needs of each format."""

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from support.models import tiny_fcos
from support.recipes import key_lists

import fcos_d2
from fcos_d2 import cli
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.checkpoint.convert import FORMATS, convert, convert_names

KEYS = key_lists()
MOBILENET = "FCOS_syncbn_bs32_c128_MNV2_FPN_1x.pth"


def zeros(published):
    return {k: torch.zeros(v) for k, v in KEYS[published].items()}


@pytest.fixture(scope="module")
def mobilenet():
    """A small published model."""
    return zeros("official/fcos_syncbn_bs32_c128_MNV2_FPN_1x")


def save(folder, name, content):
    torch.save(content, folder / name)
    return str(folder / name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "iteration": 90000, "optimizer": {"state": {}}},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": state, "meta": {"epoch": 12}},
    ],
    ids=["bare", "model", "module", "state_dict"],
)
def test_a_published_file_is_known_by_its_name_however_it_is_wrapped(tmp_path, mobilenet, wrap):
    path = save(tmp_path, MOBILENET, wrap(mobilenet))
    made = convert(path, str(tmp_path / "out"))
    assert made.origin == "official"
    assert made.source == "official/fcos_syncbn_bs32_c128_MNV2_FPN_1x.yaml"
    state = torch.load(made.weights, weights_only=True)["model"]
    assert len(state) == made.num_tensors == len(mobilenet)
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(made.config)
    expected = fcos_d2.get_cfg()
    expected.merge_from_file(fcos_d2.get_config_file(made.source))
    expected.MODEL.WEIGHTS = made.weights
    assert cfg == expected


def test_the_command_converts_and_says_what_comes_next(tmp_path, mobilenet, capsys):
    path = save(tmp_path, MOBILENET, mobilenet)
    assert cli.main(["convert", "--from", "official", path, "--output", str(tmp_path / "o")]) == 0
    out = capsys.readouterr().out
    assert "none left over or missing" in out and "--eval-only" in out
    assert cli.main(["convert", "--from", "mmdet", path, "--output", str(tmp_path / "o")]) == 2
    assert "official's, not mmdet's" in capsys.readouterr().err


def test_tensors_left_over_missing_or_of_another_shape_are_listed(tmp_path, mobilenet):
    wrong = {**mobilenet, "rpn.head.mask.weight": torch.zeros(3)}
    del wrong["rpn.head.centerness.bias"]
    wrong["backbone.fpn.fpn_layer2.weight"] = torch.zeros(2, 2)
    path = save(tmp_path, MOBILENET, wrong)
    with pytest.raises(ValueError, match="3 tensors do not fit") as error:
        convert(path, str(tmp_path / "out"))
    for line in (
        "left over: head.mask.weight (3,)",
        "missing: head.ctrness.bias (1,)",
        "shape: backbone.fpn_output3.weight is (2, 2), the model's (128, 128, 3, 3)",
    ):
        assert line in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_the_tensors_do_not_tell_must_be_given(tmp_path, mobilenet):
    path = save(tmp_path, "mine.pth", mobilenet)
    with pytest.raises(ValueError, match=r"mine\.pth.*Give --config.*official/fcos_R_50"):
        convert(path, str(tmp_path / "out"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert("nowhere.pth", str(tmp_path / "out"))
    with pytest.raises(ValueError, match="unknown format 'caffe'"):
        convert(path, str(tmp_path / "out"), origin="caffe")
    ours = save(tmp_path, "ours.pth", tiny_fcos().state_dict())
    with pytest.raises(ValueError, match="fcos_d2's own"):
        convert(ours, str(tmp_path / "out"))
    other = save(tmp_path, "other.pth", {"fc.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"no FCOS's.*fc\.weight"):
        convert(other, str(tmp_path / "out"))


OFFICIAL_YAML = """
MODEL:
  META_ARCHITECTURE: "GeneralizedRCNN"
  WEIGHT: "catalog://ImageNetPretrained/MSRA/R-50"
  RPN_ONLY: True
  FCOS_ON: True
  BACKBONE: {CONV_BODY: "MNV2-FPN-RETINANET", FREEZE_CONV_BODY_AT: 0}
  USE_SYNCBN: True
  RESNETS: {BACKBONE_OUT_CHANNELS: 128}
  RETINANET: {USE_C5: False}
  FCOS:
    NUM_CLASSES: 4
    CENTER_SAMPLING_RADIUS: 1.5
    IOU_LOSS_TYPE: "giou"
    NORM_REG_TARGETS: True
    INFERENCE_TH: 0.1
INPUT: {MIN_SIZE_RANGE_TRAIN: "(640, 800)", MAX_SIZE_TRAIN: 1333, MIN_SIZE_TRAIN: "(600,)"}
SOLVER: {BASE_LR: 0.02, STEPS: "(1000, 2000)", MAX_ITER: 3000, UNHEARD_OF: 1}
"""


def test_an_official_config_of_ones_own_is_read(tmp_path, mobilenet, caplog):
    state = {k: v[:3] if ".cls_logits." in k else v for k, v in mobilenet.items()}
    path = save(tmp_path, "mine.pth", state)
    (tmp_path / "theirs.yaml").write_text(OFFICIAL_YAML)
    made = convert(path, str(tmp_path / "out"), config=str(tmp_path / "theirs.yaml"))
    assert "SOLVER.UNHEARD_OF" in caplog.text
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(made.config)
    fcos = cfg.MODEL.FCOS
    assert (fcos.NUM_CLASSES, fcos.CENTER_SAMPLE, fcos.POS_RADIUS) == (3, True, 1.5)
    assert (fcos.LOC_LOSS_TYPE, fcos.BOX_REPRESENTATION, fcos.CENTERNESS_ON_REG) == (
        "giou",
        "ltrb_relu",
        False,
    )
    assert fcos.INFERENCE_TH_TEST == fcos.INFERENCE_TH_TRAIN == 0.1
    assert fcos.COMPAT.ONE_PIXEL_BOXES and cfg.MODEL.FPN.OUT_CHANNELS == 128
    assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.NORM) == ("mobilenetv2_100", "SyncBN")
    assert cfg.INPUT.MIN_SIZE_TRAIN == (640, 800)
    assert cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range"
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.STEPS, cfg.SOLVER.MAX_ITER) == (0.02, (1000, 2000), 3000)


ADELAIDET_YAML = """
_BASE_: "base.yaml"
MODEL:
  WEIGHTS: "https://example.org/dla34-ba72cf86.pth"
  BACKBONE: {NAME: "build_fcos_dla_fpn_backbone", FREEZE_AT: -1}
  DLA: {NORM: "SyncBN", CONV_BODY: "DLA34"}
  FPN: {IN_FEATURES: ["level3", "level4", "level5"]}
  FCOS:
    FPN_STRIDES: [8, 16, 32]
    IN_FEATURES: ["p3", "p4", "p5"]
    SIZES_OF_INTEREST: [64, 128]
    TOP_LEVELS: 0
INPUT: {HFLIP_TRAIN: False}
"""


def test_an_adelaidet_config_with_its_base_is_read(tmp_path):
    (tmp_path / "base.yaml").write_text(
        'MODEL: {META_ARCHITECTURE: "OneStageDetector", PROPOSAL_GENERATOR: {NAME: "FCOS"}}\n'
        "SOLVER: {IMS_PER_BATCH: 8}\nVERSION: 2\n"
    )
    (tmp_path / "theirs.yaml").write_text(ADELAIDET_YAML)
    path = save(tmp_path, "mine.pth", zeros("adet/FCOS_RT/MS_DLA_34_4x_syncbn"))
    made = convert(path, str(tmp_path / "out"), config=str(tmp_path / "theirs.yaml"))
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(made.config)
    assert (cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.NORM) == ("dla34", "SyncBN")
    assert cfg.MODEL.FCOS.IN_FEATURES == ["p3", "p4", "p5"] and cfg.SOLVER.IMS_PER_BATCH == 8
    assert cfg.INPUT.RANDOM_FLIP == "none" and cfg.MODEL.BACKBONE.FREEZE_AT == -1
    assert not any(cfg.MODEL.FCOS.COMPAT.values())


def test_adelaidets_own_base_need_not_be_there_but_others_must(tmp_path, caplog):
    path = save(tmp_path, "mine.pth", zeros("adet/FCOS_RT/MS_DLA_34_4x_syncbn"))
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text(ADELAIDET_YAML.replace("base.yaml", "../Base-FCOS.yaml"))
    made = convert(path, str(tmp_path / "out"), config=str(theirs))
    assert made.origin == "adelaidet" and "taking AdelaiDet's published one" in caplog.text
    theirs.write_text(ADELAIDET_YAML)
    with pytest.raises(FileNotFoundError, match=r"based on base\.yaml, which is not there"):
        convert(path, str(tmp_path / "out"), config=str(theirs))


def test_the_written_config_says_what_differs_and_no_more(tmp_path, mobilenet):
    made = convert(save(tmp_path, MOBILENET, mobilenet), str(tmp_path / "out"))
    with open(made.config) as file:
        written = yaml.safe_load(file)
    assert written["MODEL"]["PIXEL_MEAN"] == [102.9801, 115.9465, 122.7717]
    assert "ANCHOR_GENERATOR" not in written["MODEL"] and "NORM" not in written["MODEL"]["FCOS"]


def test_torchvisions_channels_become_cocos_classes():
    state = zeros("torchvision/fcos_resnet50_fpn_91_bn")
    channel = torch.arange(91.0)
    state["head.classification_head.cls_logits.bias"] = channel
    state["head.classification_head.cls_logits.weight"] += channel.view(-1, 1, 1, 1)
    ours = convert_names(state, FORMATS["torchvision"])
    holes = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    expected = [float(i) for i in range(91) if i not in holes]
    assert ours["head.cls_logits.bias"].tolist() == expected and len(expected) == 80
    assert ours["head.cls_logits.weight"][:, 0, 0, 0].tolist() == expected


def test_official_variances_lose_the_eps_that_ours_add():
    state = {
        "backbone.body.stem.bn1.running_var": torch.tensor([1.0, 0.5]),
        "backbone.body.features.0.1.running_var": torch.tensor([1.0]),
        "backbone.body.features.0.1.num_batches_tracked": torch.tensor(3),
    }
    ours = convert_names(state, FORMATS["official"])
    exact = torch.tensor([1.0, 0.5]) - 1e-5
    assert torch.equal(ours["backbone.bottom_up.stem.conv1.norm.running_var"], exact)
    assert ours["backbone.bottom_up.model.bn1.running_var"].item() == 1.0


def test_mmdetections_towers_without_bias_and_with_deformable_convolution():
    state = {
        "bbox_head.cls_convs.0.conv.weight": torch.ones(4, 4, 3, 3),
        "bbox_head.cls_convs.0.gn.weight": torch.ones(4),
        "bbox_head.cls_convs.1.conv.weight": torch.ones(4, 4, 3, 3),
        "bbox_head.cls_convs.1.conv.conv_offset.weight": torch.ones(27, 4, 3, 3),
        "bbox_head.cls_convs.1.conv.conv_offset.bias": torch.ones(27),
        "bbox_head.cls_convs.1.gn.weight": torch.ones(4),
        "bbox_head.fcos_centerness.bias": torch.ones(1),
        "bbox_head.scales.0.scale": torch.tensor(1.5),
        "ema_bbox_head_fcos_centerness_bias": torch.ones(1),
        "backbone.layer2.0.conv2.conv_offset.bias": torch.ones(27),
        "neck.fpn_convs.4.conv.bias": torch.ones(8),
        "neck.lateral_convs.0.conv.bias": torch.ones(8),
    }
    ours = convert_names(state, FORMATS["mmdet"])
    assert {k: tuple(v.shape) for k, v in ours.items()} == {
        "head.cls_tower.0.weight": (4, 4, 3, 3),
        "head.cls_tower.0.bias": (4,),
        "head.cls_tower.1.weight": (4,),
        "head.cls_tower.3.conv.weight": (4, 4, 3, 3),
        "head.cls_tower.3.conv.bias": (4,),
        "head.cls_tower.3.offset.weight": (27, 4, 3, 3),
        "head.cls_tower.3.offset.bias": (27,),
        "head.cls_tower.4.weight": (4,),
        "head.ctrness.bias": (1,),
        "head.scales.0.scale": (1,),
        "backbone.bottom_up.res3.0.conv2_offset.bias": (27,),
        "backbone.top_block.p7.bias": (8,),
        "backbone.fpn_lateral3.bias": (8,),
    }
    assert not ours["head.cls_tower.0.bias"].any()


def test_detectron2s_batch_norms_share_their_weights_between_levels():
    state = {
        "head.cls_subnet.1.weight": torch.tensor([2.0]),
        "head.cls_subnet.1.bias": torch.tensor([3.0]),
        **{f"head.cls_subnet.1.{i}.running_mean": torch.tensor([float(i)]) for i in range(2)},
    }
    ours = convert_names(state, FORMATS["detectron2"])
    assert {k: v.item() for k, v in ours.items()} == {
        f"head.cls_tower.1.{i}.{name}": value
        for i in range(2)
        for name, value in (("running_mean", float(i)), ("weight", 2.0), ("bias", 3.0))
    }


def test_a_foreign_checkpoint_loads_as_weights_and_warns_of_other_conventions(
    tmp_path, mobilenet, caplog
):
    path = save(tmp_path, MOBILENET, mobilenet)
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("official/fcos_syncbn_bs32_c128_MNV2_FPN_1x.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    checkpointer = FCOSCheckpointer(build_model(cfg))
    checkpointer.load(path)
    assert not checkpointer.missing_keys and "conventions" not in caplog.text
    cfg.MODEL.FCOS.COMPAT.ONE_PIXEL_BOXES = False
    cfg.MODEL.FCOS.NUM_CLASSES = 3
    checkpointer = FCOSCheckpointer(build_model(cfg))
    checkpointer.load(path)
    assert "set in MODEL.FCOS.COMPAT: ONE_PIXEL_BOXES True" in caplog.text
    assert sorted(checkpointer.missing_keys) == ["head.cls_logits.bias", "head.cls_logits.weight"]
