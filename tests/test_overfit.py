"""Everything together: the trainer learns a few pictures by heart and the evaluator sees it."""

import json

import numpy as np
from PIL import Image

from fcos_d2.engine.main import main, make_parser


def write_squares(folder, num_images=4, size=96):
    """Red and blue squares on noise, in COCO's format with category ids 7 and 3."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (folder / "images").mkdir()
    for i in range(num_images):
        picture = rng.integers(90, 160, (size, size, 3), dtype=np.uint8)
        for j, (category, channel) in enumerate(((7, 0), (3, 2))):
            side = int(rng.integers(24, 36))
            x, y = int(rng.integers(2, size - side - 2)), 4 + j * 48
            side = min(side, size - 4 - y)
            picture[y : y + side, x : x + side] = 30
            picture[y : y + side, x : x + side, channel] = 230
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": category,
                    "bbox": [x, y, side, side],
                    "area": side * side,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(picture).save(folder / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": size, "height": size})
    categories = [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "squares.json").write_text(json.dumps({"info": {}, **content}))


def test_a_few_pictures_are_learnt_by_heart(tmp_path):
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import register_coco_instances

    write_squares(tmp_path)
    name = "overfit_squares"
    register_coco_instances(name, {}, str(tmp_path / "squares.json"), str(tmp_path / "images"))
    try:
        overrides = {
            "MODEL.DEVICE": "cpu",
            "MODEL.WEIGHTS": "",
            "MODEL.RESNETS.DEPTH": 18,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
            "MODEL.RESNETS.NORM": "BN",
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "MODEL.BACKBONE.FREEZE_AT": 0,
            "MODEL.FPN.OUT_CHANNELS": 32,
            "MODEL.FCOS.NUM_CLASSES": 2,
            "MODEL.FCOS.NUM_CLS_CONVS": 1,
            "MODEL.FCOS.NUM_BOX_CONVS": 1,
            "MODEL.FCOS.IN_FEATURES": "['p3','p4','p5']",
            "MODEL.FCOS.SIZES_OF_INTEREST": "[64,128]",
            "MODEL.FCOS.TOP_LEVELS": 0,
            "DATASETS.TRAIN": f"('{name}',)",
            "DATASETS.TEST": f"('{name}',)",
            "DATALOADER.NUM_WORKERS": 0,
            "INPUT.MIN_SIZE_TRAIN": "(96,)",
            "INPUT.MIN_SIZE_TEST": 96,
            "INPUT.RANDOM_FLIP": "none",
            "SOLVER.OPTIMIZER": "AdamW",
            "SOLVER.BASE_LR": 0.002,
            "SOLVER.IMS_PER_BATCH": 4,
            "SOLVER.MAX_ITER": 150,
            "SOLVER.STEPS": "(110,)",
            "SOLVER.WARMUP_ITERS": 10,
            "SEED": 1,
            "OUTPUT_DIR": str(tmp_path / "output"),
        }
        flat = [str(item) for pair in overrides.items() for item in pair]
        args = make_parser().parse_args(["--config-file", "fcos_R_50_FPN_1x.yaml", *flat])
        results = main(args)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["bbox"]["AP50"] > 90
    last = (tmp_path / "output" / "metrics.json").read_text().splitlines()[-1]
    assert json.loads(last)["bbox/AP50"] == results["bbox"]["AP50"]
    found = json.loads((tmp_path / "output/inference/coco_instances_results.json").read_text())
    assert {d["category_id"] for d in found} == {3, 7}
