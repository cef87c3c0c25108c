"""Small COCO datasets, and the overrides that train a tiny model on one."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_dataset(json_file, images_folder, images, categories):
    """Write a dataset in COCO's format.

    Args:
        json_file: path of the annotations.
        images_folder: folder of the images, which get the names 0.png, 1.png, ...
        images: for each image (H, W, 3) pixels and a list of (category id, [x, y, width, height]).
        categories: names by category id.
    """
    json_file, images_folder = Path(json_file), Path(images_folder)
    content = {"info": {}, "images": [], "annotations": []}
    content["categories"] = [{"id": i, "name": name} for i, name in categories.items()]
    json_file.parent.mkdir(parents=True, exist_ok=True)
    images_folder.mkdir(parents=True)
    for i, (pixels, boxes) in enumerate(images):
        Image.fromarray(pixels).save(images_folder / f"{i}.png")
        height, width = pixels.shape[:2]
        row = {"id": i, "file_name": f"{i}.png", "width": width, "height": height}
        content["images"].append(row)
        for category, box in boxes:
            row = {"id": len(content["annotations"]) + 1, "image_id": i, "category_id": category}
            content["annotations"].append(
                {**row, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    json_file.write_text(json.dumps(content))


def write_coco(folder, ids=(7, 3, 90), num_images=4, size=(96, 64), empty=()):
    """Write images of noise with three boxes each, or none for image indices in ``empty``.

    Returns:
        Path of the JSON file; the images are in ``folder / "images"``.
    """
    rng = np.random.default_rng(0)
    images = []
    for i in range(num_images):
        noise = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        boxes = [
            (ids[j % len(ids)], [5 + 20 * j, 6 + 3 * i, 20 + 5 * j, 20 + 5 * j])
            for j in range(0 if i in empty else 3)
        ]
        images.append((noise, boxes))
    path = folder / "data.json"
    write_dataset(path, folder / "images", images, {i: f"class {i}" for i in ids})
    return path


def tiny_overrides(output, name="tiny", **changes):
    """KEY VALUE list: ResNet-18, 64 channels, SGD, batches of 2 images of 64 px, 2 iterations."""
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
