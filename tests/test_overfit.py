"""The whole chain: the trainer memorizes a few images, and the evaluator measures it."""

import json

import numpy as np
from support.exported_models import TWO_LEVELS
from support.tiny import tiny_overrides, write_dataset

from fcos_d2.engine.main import main, make_parser


def squares(num_images=4, size=96):
    """Images of noise with one red and one blue square each, and the boxes of both."""
    rng = np.random.default_rng(0)
    for _ in range(num_images):
        image = rng.integers(90, 160, (size, size, 3), dtype=np.uint8)
        boxes = []
        for j, (category, channel) in enumerate(((7, 0), (3, 2))):
            side = int(rng.integers(24, 36))
            x, y = int(rng.integers(2, size - side - 2)), 4 + j * 48
            side = min(side, size - 4 - y)
            image[y : y + side, x : x + side] = 30
            image[y : y + side, x : x + side, channel] = 230
            boxes.append((category, [x, y, side, side]))
        yield image, boxes


def test_a_few_images_are_memorized(tmp_path, register):
    path, images = tmp_path / "squares.json", tmp_path / "images"
    write_dataset(path, images, squares(), {7: "red", 3: "blue"})
    overrides = tiny_overrides(
        tmp_path / "output",
        register("overfit_squares", path, images),
        **TWO_LEVELS,
        **{
            "MODEL.RESNETS.NORM": "BN",
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "MODEL.BACKBONE.FREEZE_AT": 0,
            "MODEL.FPN.OUT_CHANNELS": 32,
            "MODEL.FCOS.NUM_CLASSES": 2,
            "INPUT.MIN_SIZE_TRAIN": "(96,)",
            "INPUT.MIN_SIZE_TEST": 96,
            "INPUT.RANDOM_FLIP": "none",
            "SOLVER.OPTIMIZER": "AdamW",
            "SOLVER.BASE_LR": 0.002,
            "SOLVER.IMS_PER_BATCH": 4,
            "SOLVER.MAX_ITER": 80,
            "SOLVER.STEPS": "(60,)",
            "SOLVER.WARMUP_ITERS": 10,
            "SEED": 1,
        },
    )
    results = main(make_parser().parse_args(["--config-file", "fcos_R_50_FPN_1x.yaml", *overrides]))
    assert results["bbox"]["AP50"] > 90
    last = (tmp_path / "output" / "metrics.json").read_text().splitlines()[-1]
    assert json.loads(last)["bbox/AP50"] == results["bbox"]["AP50"]
    found = json.loads((tmp_path / "output/inference/coco_instances_results.json").read_text())
    assert {d["category_id"] for d in found} == {3, 7}
