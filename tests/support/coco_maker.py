"""Small COCO datasets for the tests."""

import json

import numpy as np
from PIL import Image

from fcos_d2.data.check.learnable import InputRule
from fcos_d2.data.datasets.coco import load_coco

RULE = InputRule(min_size=0, max_size=1000)  # images as they are
CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


class Maker:
    """Builder of a COCO dataset in a folder; the images are noise, so all are different."""

    def __init__(self, folder, seed):
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.content = {"images": [], "annotations": [], "categories": CATEGORIES}
        (folder / "images").mkdir(parents=True)

    def image(self, name, size=(64, 48), boxes=((8, 8, 24, 20),), write=True, **changes):
        """Add an image and its boxes; ``changes`` replace fields of its row."""
        width, height = size
        if write:
            noise = self.rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            Image.fromarray(noise).save(self.folder / "images" / name)
        image_id = len(self.content["images"]) + 1
        row = {"id": image_id, "file_name": name, "width": width, "height": height, **changes}
        self.content["images"].append(row)
        for box in boxes:
            self.box(image_id, box)
        return image_id

    def box(self, image_id, box, **changes):
        number = len(self.content["annotations"])
        row = {
            "id": number + 1,
            "image_id": image_id,
            "category_id": number % 2 + 1,
            "bbox": list(box),
            "area": 100,
            "iscrowd": 0,
            **changes,
        }
        self.content["annotations"].append(row)

    def path(self, name):
        return self.folder / "images" / name

    def write(self):
        (self.folder / "data.json").write_text(json.dumps(self.content))

    def load(self):
        self.write()
        return load_coco(self.folder / "data.json", self.folder / "images")
