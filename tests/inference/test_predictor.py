import os
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from support.model_folders import tiny_cfg, tiny_model, write_model_folder
from support.photos import noise

import fcos_d2
from fcos_d2.checkpoint.published import PUBLISHED
from fcos_d2.data.mapper import FCOSDatasetMapper
from fcos_d2.inference.detections import Detections
from fcos_d2.inference.model_folder import find_class_names
from fcos_d2.inference.predictor import Predictor


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of a random model."""
    cfg = tiny_cfg()
    return write_model_folder(tmp_path_factory.mktemp("trained"), cfg, tiny_model(cfg), iteration=1)


@pytest.fixture(scope="module")
def predictor(trained):
    return Predictor.from_pretrained(trained, device="cpu")


@pytest.fixture
def copied(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "model")


def save_checkpoint(folder, change=lambda checkpoint: None, name="model_final.pth"):
    checkpoint = torch.load(folder / "model_final.pth")
    change(checkpoint)
    torch.save(checkpoint, folder / name)


def save_config(folder, *opts):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(str(folder / "config.yaml"))
    cfg.merge_from_list(list(opts))
    (folder / "config.yaml").write_text(cfg.dump())


def assert_same(a, b, tolerance=1e-4):
    assert len(a) == len(b) > 0
    assert a.image_size == b.image_size
    assert np.abs(a.boxes - b.boxes).max() <= tolerance * max(a.image_size)
    assert np.abs(a.scores - b.scores).max() <= tolerance
    assert a.class_ids.tolist() == b.class_ids.tolist()


# What goes in and what comes out


def test_detections_are_those_of_evaluation(predictor, tmp_path):
    Image.fromarray(noise(50, 90)).save(tmp_path / "a.png")
    mapped = FCOSDatasetMapper(predictor.cfg, is_train=False)(
        {"file_name": str(tmp_path / "a.png"), "height": 50, "width": 90}
    )
    assert torch.equal(predictor.prepare(tmp_path / "a.png").tensor, mapped["image"])
    with torch.no_grad():
        expected = predictor.model([mapped])[0]["instances"]
    found = predictor(tmp_path / "a.png")
    assert len(found) == len(expected) > 10
    assert np.array_equal(found.boxes, expected.pred_boxes.tensor.numpy())
    assert np.array_equal(found.scores, expected.scores.numpy())
    assert found.image_size == (50, 90)
    assert found.source == str(tmp_path / "a.png")
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.boxes.max() > 70  # in pixels of the image, not of the network


def test_every_kind_of_image_gives_the_same(predictor, tmp_path):
    rgb = noise(40, 60)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    expected = predictor(tmp_path / "a.png")
    for image in (
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        rgb[..., ::-1],
        Image.fromarray(rgb),
        torch.from_numpy(rgb).permute(2, 0, 1),
    ):
        assert_same(predictor(image), expected, 0)


def test_an_rgb_model_gets_rgb():
    cfg = tiny_cfg(**{"INPUT.FORMAT": "RGB", "INPUT.MIN_SIZE_TEST": 0})
    rgb = noise(8, 8)
    prepared = Predictor(tiny_model(cfg), cfg, "abc").prepare(Image.fromarray(rgb))
    assert np.array_equal(prepared.tensor.permute(1, 2, 0).numpy(), rgb)


def test_one_gives_one_a_list_a_list_and_an_iterator_a_lazy_generator(predictor):
    images = [noise(30, 30), noise(30, 60)]
    assert isinstance(predictor(images[0]), Detections)
    assert [d.image_size for d in predictor(images)] == [(30, 30), (30, 60)]
    read = []

    def endless():
        while True:
            read.append(1)
            yield images[0]

    results = predictor(endless(), batch_size=2)
    assert not read
    assert next(results).image_size == (30, 30)
    assert len(read) == 2


def test_batches_change_neither_order_nor_detections(predictor):
    sizes = [(64, 64), (64, 100), (50, 64), (64, 90), (100, 64), (64, 64), (60, 64), (33, 64)]
    images = [noise(*size) for size in sizes]
    one_by_one = [predictor(image) for image in images]
    for batch_size in (2, 3, 100):
        together = predictor(images, batch_size=batch_size)
        assert [d.image_size for d in together] == sizes
        for a, b in zip(one_by_one, together):
            assert_same(a, b)


def test_images_of_equal_padded_shape_share_a_batch(predictor, monkeypatch):
    batches = []
    detect = predictor.detect
    monkeypatch.setattr(predictor, "detect", lambda b: batches.append(len(b)) or detect(b))
    square, wide = noise(64, 64), noise(64, 100)
    predictor([square, wide, square, wide, square], batch_size=2)
    assert sorted(batches) == [1, 2, 2]


def test_a_rare_shape_waits_for_a_bounded_number_of_images(predictor):
    read = []

    def images():
        yield noise(64, 100)
        for _ in range(1000):
            read.append(1)
            yield noise(64, 64)

    assert next(predictor(images(), batch_size=2)).image_size == (64, 100)
    assert len(read) <= 10


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1)])
def test_one_pixel_is_an_image(predictor, size):
    found = predictor(noise(*size))
    assert found.image_size == size
    assert (found.boxes <= [size[1], size[0]] * 2).all()


def test_boxes_refer_to_the_upright_image(predictor, tmp_path):
    upright = noise(40, 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored as the sensor lay: to be turned clockwise
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    stored.save(tmp_path / "a.png", exif=exif)
    assert_same(predictor(tmp_path / "a.png"), predictor(upright[..., ::-1]), 0)


def test_the_threshold_leaves_out_weaker_detections(predictor, trained):
    image = noise(64, 64)
    every = predictor(image)
    threshold = float(np.median(every.scores))
    strict = Predictor.from_pretrained(trained, device="cpu", score_threshold=threshold)(image)
    assert_same(strict, every.select(every.scores >= threshold), 0)
    assert 0 < len(strict) < len(every)


def test_bf16_is_near_fp32(trained, predictor):
    image = noise(64, 64)
    half = Predictor.from_pretrained(trained, device="cpu", precision="bfloat16")
    assert half.precision == "bf16"
    half = half(image)
    full = predictor(image)
    assert half.scores[0] != full.scores[0]
    assert half.scores[0] == pytest.approx(full.scores[0], abs=0.02)


def test_impossible_options_are_refused_with_the_way_out(trained, predictor):
    with pytest.raises(ValueError, match="precision fp16 does not work on the CPU"):
        Predictor.from_pretrained(trained, device="cpu", precision="fp16")
    with pytest.raises(ValueError, match="unknown device 'gpu': give cpu"):
        Predictor.from_pretrained(trained, device="gpu")
    with pytest.raises(ValueError, match="there is no device cuda:99"):
        Predictor.from_pretrained(trained, device="cuda:99")
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predictor([], batch_size=0)
    with pytest.raises(ValueError, match="2 names for the 3 classes"):
        Predictor(predictor.model, predictor.cfg, ["a", "b"])


# Which weights


def test_the_newest_weights_of_a_folder_are_taken(copied):
    def bias(value):
        def change(checkpoint):
            checkpoint["model"]["head.cls_logits.bias"] = torch.full((3,), value)

        return change

    for age, (name, value) in enumerate(
        [("model_0000009.pth", 1.0), ("model_best.pth", 2.0), ("model.pth", 3.0)]
    ):
        save_checkpoint(copied, bias(value), name)
        os.utime(copied / name, (2e9 - age, 2e9 - age))

    def loaded(weights=None):
        model = Predictor.from_pretrained(copied, weights, device="cpu").model
        return model.head.cls_logits.bias[0].item()

    assert loaded() == 2
    (copied / "last_checkpoint").write_text("model_0000009.pth")
    assert loaded() == 1
    assert loaded("model.pth") == 3
    assert loaded(copied / "model_best.pth") == 2


def test_a_config_and_weights_do_without_a_folder(trained, predictor):
    image = noise(64, 64)
    other = Predictor.from_pretrained(
        trained / "config.yaml", trained / "model_final.pth", device="cpu"
    )
    assert_same(other(image), predictor(image), 0)


def test_what_is_missing_is_named(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.yaml in the folder"):
        Predictor.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds weights: give its folder"):
        Predictor.from_pretrained(copied / "model_final.pth")
    with pytest.raises(FileNotFoundError, match="nearest: fcos_R_50"):
        Predictor.from_pretrained("fcos_R_50_FPN.yaml")
    with pytest.raises(ValueError, match=r"names no trained detector.*Give weights"):
        Predictor.from_pretrained("fcos_R_50_FPN_1x.yaml")
    with pytest.raises(ValueError, match=r"names no trained detector.*published are https"):
        Predictor.from_pretrained(next(p.config for p in PUBLISHED if p.url))
    (copied / "model_final.pth").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights in the folder.*model_best"):
        Predictor.from_pretrained(copied)


@pytest.mark.parametrize("key", ["head.cls_logits.weight", "backbone.fpn_lateral3.weight"])
def test_weights_that_leave_something_random_are_refused(copied, key):
    save_checkpoint(copied, lambda checkpoint: checkpoint["model"].pop(key))
    with pytest.raises(ValueError, match=f"lacks 1 weights of the model, such as {key}"):
        Predictor.from_pretrained(copied, device="cpu")


def test_a_head_for_another_number_of_classes_is_refused(copied):
    save_config(copied, "MODEL.FCOS.NUM_CLASSES", 5)
    with pytest.raises(ValueError, match=r"lacks 2 weights of the model, such as head\.cls_logits"):
        Predictor.from_pretrained(copied, device="cpu")


# Names of classes


def test_names_come_from_the_checkpoint_first(copied):
    save_checkpoint(copied, lambda c: c.update(class_names=["cat", "dog", "owl"]))
    predictor = Predictor.from_pretrained(copied, device="cpu")
    assert predictor.class_names == ["cat", "dog", "owl"]
    found = predictor(noise(64, 64))
    assert found.class_names == [predictor.class_names[i] for i in found.class_ids]


def test_names_come_from_the_config_next():
    cfg = tiny_cfg()
    cfg.MODEL.FCOS.CLASS_NAMES = ["x", "y", "z"]
    assert find_class_names(cfg, {}) == ["x", "y", "z"]
    assert find_class_names(cfg, {"class_names": ["a", "b", "c"]}) == ["a", "b", "c"]


def test_names_and_ids_come_from_a_registered_set_with_as_many_classes(copied):
    DatasetCatalog.register("tiny", lambda: [])
    try:
        metadata = MetadataCatalog.get("tiny")
        metadata.set(thing_classes=["red", "white", "blue"])
        metadata.set(thing_dataset_id_to_contiguous_id={3: 0, 7: 1, 90: 2})
        predictor = Predictor.from_pretrained(copied, device="cpu")
        assert predictor.class_names == ["red", "white", "blue"]
        assert predictor.category_ids == [3, 7, 90]
    finally:
        DatasetCatalog.remove("tiny")
        MetadataCatalog.remove("tiny")
    save_config(copied, "DATASETS.TRAIN", "('coco_2017_train',)")  # of 80 classes
    predictor = Predictor.from_pretrained(copied, device="cpu")
    assert predictor.class_names == ["class 0", "class 1", "class 2"]
    assert predictor.category_ids is None


def test_a_wrong_number_of_names_is_refused(copied):
    save_checkpoint(copied, lambda c: c.update(class_names=["cat"]))
    with pytest.raises(ValueError, match="class_names of the checkpoint: 1 names for the 3"):
        Predictor.from_pretrained(copied, device="cpu")
