"""A tiny data set and the overrides that train a tiny model on it."""

import json

import numpy as np
from PIL import Image


def write_coco(folder, ids=(7, 3, 90), num_images=4, size=(96, 64), empty=()):
    """Noise with boxes in COCO's format; images named in ``empty`` have none.

    Returns:
        Path of the JSON file; the pictures are in ``folder / "images"``.
    """
    rng = np.random.default_rng(0)
    width, height = size
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(num_images):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        for j in range(0 if i in empty else 3):
            x, y, side = 5 + 20 * j, 6 + 3 * i, 20 + 5 * j
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": ids[j % len(ids)],
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": f"class {i}"} for i in ids]
    content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    path = folder / "data.json"
    path.write_text(json.dumps(content))
    return path


def tiny_overrides(output, name="tiny", **changes):
    """Flat KEY VALUE list: ResNet-18, 64 channels, SGD, 2 images of 64 px a batch, 2 iterations."""
    values = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.FPN.OUT_CHANNELS": 64,
        "MODEL.FCOS.NUM_CLASSES": 3,
        "MODEL.FCOS.NUM_CLS_CONVS": 1,
        "MODEL.FCOS.NUM_BOX_CONVS": 1,
        "MODEL.FCOS.INFERENCE_TH_TEST": 0.001,
        "DATASETS.TRAIN": f"('{name}',)",
        "DATASETS.TEST": f"('{name}',)",
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": "(64,)",
        "INPUT.MIN_SIZE_TEST": 64,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.MAX_ITER": 2,
        "SOLVER.STEPS": "(100,)",
        "SEED": 3,
        "OUTPUT_DIR": str(output),
    }
    values.update(changes)
    return [str(item) for pair in values.items() for item in pair]
