"""Whole models of four code bases, converted: the same dense predictions and detections."""

from dataclasses import dataclass

import pytest
import torch
from detectron2.modeling import build_model
from support.compare import check_same, error
from support.golden import golden
from support.inputs import ground_truth
from support.models import flat
from support.recipes import hashed_recipe, key_lists, sorted_recipe
from torchvision.ops import batched_nms

import fcos_d2
from fcos_d2.checkpoint import FCOSCheckpointer
from fcos_d2.checkpoint.convert import (
    FORMATS,
    convert,
    convert_names,
    detect_format,
    list_mismatches,
    match_counters,
)

KEYS = key_lists()
FOLDERS = {"adet": "adelaidet"}
TOLERANCE = 1e-5
# Their own float32 centerness is 4.2e-5 and 1.6e-5 off their float64 one, ours up to 1.1e-5.
# V-39 in channels-last order is up to 2.6e-5 off: convolutions add up more terms in a row there.
WIDER = {"official_MNV2": 2e-5, "adelaidet_V39": 4e-5}


def config_of(published):
    """Our config for an entry of the key lists."""
    folder, name = published.split("/", 1)
    origin = FOLDERS.get(folder, folder)
    return FORMATS[origin].default_config or f"{origin}/{name}.yaml"


@pytest.mark.parametrize("published", sorted(k for k in KEYS if not k.startswith("e2e/")))
def test_every_published_model_converts_completely(published):
    keys = KEYS[published]
    state = {k: torch.empty(v, device="meta") for k, v in keys.items()}
    foreign = detect_format(state)
    assert foreign.name == FOLDERS.get(published.split("/")[0], published.split("/")[0])
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file(config_of(published)))
    cfg.MODEL.DEVICE = "meta"  # shapes without values
    if "7cls" in published:
        cfg.MODEL.FCOS.NUM_CLASSES = 7
    with torch.device("meta"):
        own = build_model(cfg).state_dict()
    state = match_counters(convert_names(state, foreign), own)
    assert list_mismatches(state, own) == []


def test_all_published_key_lists_are_there():
    count = {
        folder: sum(k.startswith(folder + "/") for k in KEYS) for folder in ("official", "adet")
    }
    assert count == {"official": 19, "adet": 21}


@dataclass
class Whole:
    """A reference model: where its names and weights come from, and which config is ours."""

    keys: str
    weights: object
    config: str
    classes: int = 80
    plain_nms: bool = False  # the reference suppressed with torchvision's NMS


WHOLE = {
    "official_fcos_imprv": Whole(
        "official/fcos_imprv_R_50_FPN_1x",
        sorted_recipe,
        "official/fcos_imprv_R_50_FPN_1x.yaml",
        plain_nms=True,
    ),
    "official_MNV2": Whole(
        "official/fcos_bn_bs16_MNV2_FPN_1x",
        lambda keys: hashed_recipe(keys, 3),
        "official/fcos_bn_bs16_MNV2_FPN_1x.yaml",
        classes=8,
    ),
    "adelaidet_V39": Whole(
        "adet/vovnet/MS_V_39_3x",
        lambda keys: hashed_recipe(keys, 4),
        "adelaidet/vovnet/MS_V_39_3x.yaml",
        classes=8,
    ),
    "detectron2_fcos": Whole("e2e/detectron2_fcos_R_50_FPN_1x", sorted_recipe, None),
    "torchvision": Whole("e2e/torchvision_fcos_resnet18_7classes", sorted_recipe, None, classes=7),
}


@pytest.fixture(scope="module", params=sorted(WHOLE))
def converted(request, tmp_path_factory):
    """Name, description and our model, through files as a user would."""
    whole = WHOLE[request.param]
    folder = tmp_path_factory.mktemp("converted")
    keys = {
        k: [whole.classes, *v[1:]] if k.split(".")[-2] in ("cls_logits", "cls_score") else v
        for k, v in KEYS[whole.keys].items()
    }
    torch.save({"model": whole.weights(keys)}, folder / "theirs.pth")
    made = convert(str(folder / "theirs.pth"), str(folder / "ours"), config=whole.config)
    (folder / "theirs.pth").unlink()
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(made.config)
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    checkpointer = FCOSCheckpointer(model)
    checkpointer.load(cfg.MODEL.WEIGHTS)
    assert not checkpointer.missing_keys
    yield request.param, whole, model.eval()
    (folder / "ours" / "model.pth").unlink()


def inputs_of(case):
    """detectron2's input for every image of a case."""
    inputs = []
    for i in range(len([k for k in case if k.startswith("image")])):
        image = case[f"image{i}"]
        size = tuple(case["output_hw"][i].tolist()) if "output_hw" in case else image.shape[1:]
        if f"resized{i}" in case:  # the original resized and normalized it: undo the normalization
            mean, std = (torch.tensor(x).view(3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
            image = (case[f"resized{i}"] * std + mean) * 255
        inputs.append({"image": image, "height": size[0], "width": size[1]})
    return inputs


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@torch.no_grad()
def test_dense_predictions_equal_the_original(converted):
    name, _, model = converted
    cases = [c for c in golden("models") if c.startswith(name)]
    assert cases
    for case in (golden("models")[c] for c in cases):
        found = model.predict(model.preprocess_image(inputs_of(case)).tensor)
        coder, strides = model.head.box_coder, found.locations.strides[:, None]
        distances = coder.distances(flat(found.boxes))
        if "official" in name and coder.in_strides:  # theirs leave the head in pixels
            distances = distances * strides
        seen = {
            "logits": flat(found.logits),
            "distances": distances,
            "quality": flat(found.quality),
        }
        for key, ours in seen.items():
            theirs = case[key].relu() if name == "detectron2_fcos" and key[0] == "d" else case[key]
            assert error(ours, theirs) <= WIDER.get(name, TOLERANCE), key


@torch.no_grad()
def test_detections_equal_the_original(converted, monkeypatch):
    name, whole, model = converted
    for case in (golden("models")[c] for c in golden("models") if c.startswith(name)):
        if whole.plain_nms:
            monkeypatch.setattr("fcos_d2.modeling.nms.batched_nms", undone_plus_one)
        outputs = model(inputs_of(case))
        for i, output in enumerate(outputs):
            found = output["instances"]
            if model.postprocess.one_pixel_boxes:  # theirs end at the last pixel, ours behind it
                found.pred_boxes.tensor[:, 2:] -= 1
            check_same(found, *(case[f"{k}{i}"] for k in ("boxes", "scores", "classes")))


def undone_plus_one(boxes, scores, classes, threshold):
    """The NMS that this reference was computed with, without its one-pixel rule."""
    return batched_nms(boxes - boxes.new_tensor([0, 0, 1, 1]), scores, classes, threshold)


# The other references stored no losses.
@pytest.mark.parametrize("converted", ["torchvision"], indirect=True)
def test_training_losses_equal_torchvisions(converted):
    name, _, model = converted
    case = golden("models")[name]
    inputs = inputs_of(case)
    for i, x in enumerate(inputs):
        boxes, size = case[f"gt_boxes{i}"], x["image"].shape[1:]
        scale = torch.tensor([size[1] / x["width"], size[0] / x["height"]]).repeat(2)
        x["instances"] = ground_truth(boxes * scale, case[f"gt_classes{i}"], size)
    losses = model.train()(inputs)
    model.eval()
    ours = torch.stack([losses[f"loss_fcos_{k}"] for k in ("cls", "loc", "ctr")])
    assert error(ours, case["losses"]) <= TOLERANCE
