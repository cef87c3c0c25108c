"""The image that the quick start draws."""

import json

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from fcos_d2.inference.detections import Detections
from fcos_d2.quickstart.run import draw_dataset_image
from fcos_d2.utils.visualize import DETECTION_COLOR, GROUND_TRUTH_COLOR


def test_ground_truth_and_detections_are_drawn(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 200, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 30], "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "tree"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    monkeypatch.setattr(DatasetCatalog, "data", dict(DatasetCatalog.data))
    monkeypatch.setattr(MetadataCatalog, "data", dict(MetadataCatalog.data))
    register_coco_instances("one_tree", {}, str(tmp_path / "a.json"), str(tmp_path))

    def predictor(image):
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(pixels))
        return Detections(
            boxes=np.array([[40, 20, 70, 50]], dtype=np.float32),
            scores=np.ones(1, dtype=np.float32),
            class_ids=np.zeros(1, dtype=np.int64),
            class_names=["tree"],
            image_size=(60, 80),
            source=None,
        )

    drawn = draw_dataset_image(predictor, "one_tree").permute(1, 2, 0).numpy()
    assert drawn.shape == pixels.shape
    for color, (x1, y1, x2, y2) in (
        (GROUND_TRUTH_COLOR, (5, 5, 25, 35)),
        (DETECTION_COLOR, (40, 20, 70, 50)),
    ):
        x, y = (x1 + x2) // 2, (y1 + y2) // 2
        assert (drawn[y, x1] == color).all() and (drawn[y1, x] == color).all()
        assert (drawn[y, x] == pixels[y, x]).all()
