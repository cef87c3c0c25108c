import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image

import fcos_d2
from fcos_d2.data.augmentation import RandomTranspose, TransposeTransform, build_augmentations
from fcos_d2.data.mapper import FCOSDatasetMapper


def record(path, box=(10.0, 20.0, 30.0, 60.0), size=(100, 80)):
    width, height = size
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)
    annotation = {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": 0}
    return {
        "file_name": str(path),
        "image_id": 1,
        "width": width,
        "height": height,
        "annotations": [annotation],
    }


def mapper(*overrides):
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_list(list(overrides))
    return FCOSDatasetMapper(cfg, is_train=True)


def test_augmentations_from_config_move_image_and_box_together(tmp_path):
    out = mapper("INPUT.AUGS", [["RandomTranspose", {"prob": 1.0}]])(record(tmp_path / "a.png"))
    assert out["image"].shape == (3, 100, 80)
    assert out["instances"].gt_boxes.tensor.tolist() == [[20.0, 10.0, 60.0, 30.0]]


def test_transpose_is_its_own_inverse_and_marks_the_same_pixels():
    image = np.arange(24).reshape(4, 6)
    transform = TransposeTransform()
    moved = transform.apply_image(image)
    coords = np.array([[5.0, 2.0]])
    ((x, y),) = transform.apply_coords(coords).astype(int)
    assert moved[y, x] == image[2, 5]
    assert (transform.inverse().apply_image(moved) == image).all()


def test_random_transpose_happens_about_as_often_as_asked():
    np.random.seed(0)
    augmentation = RandomTranspose(prob=0.25)
    image = np.zeros((2, 2))
    count = sum(
        isinstance(augmentation.get_transform(image), TransposeTransform) for _ in range(400)
    )
    assert 70 < count < 130


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1), (0.4, 1), (0.6, 0)])
def test_boxes_cut_off_by_a_crop_are_dropped(tmp_path, share, kept):
    half = [["CropTransform", {"x0": 20, "y0": 0, "w": 60, "h": 80}]]
    with pytest.raises(ValueError, match="no augmentation 'CropTransform'"):
        build_augmentations(half)
    m = mapper("INPUT.MIN_VISIBLE", share)
    m.augmentations = T.AugmentationList([T.CropTransform(20, 0, 60, 80)])
    out = m(record(tmp_path / "a.png"))  # the crop leaves x 20-30 of 10-30: one half
    assert len(out["instances"]) == kept


def test_wrong_augmentations_name_the_entry():
    with pytest.raises(ValueError, match="nearest: RandomFlip"):
        build_augmentations([["RandomFlipp", {}]])
    with pytest.raises(ValueError, match="RandomFlip does not take"):
        build_augmentations([["RandomFlip", {"probability": 0.5}]])


def test_a_missing_image_is_named(tmp_path):
    wanted = record(tmp_path / "a.png")
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.png is in the annotations but not on disk"):
        mapper()(wanted)


def test_an_unreadable_image_is_named(tmp_path):
    wanted = record(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(ValueError, match=r"a\.png cannot be read"):
        mapper()(wanted)


def test_a_size_that_differs_from_the_annotations_is_explained(tmp_path):
    wanted = record(tmp_path / "a.png")
    wanted.update(width=80, height=100)
    with pytest.raises(ValueError, match=r"a\.png has another size.*EXIF"):
        mapper()(wanted)
