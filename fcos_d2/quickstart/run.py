"""The quick start: fetch data and weights, train a tree detector, evaluate and draw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from torch import Tensor

from ..config import get_cfg
from ..data.datasets.builtin import dataset_root
from ..data.images import read_rgb
from ..engine.main import load_cfg, make_parser
from ..engine.main import main as train_and_evaluate
from ..evaluation.curves import plot_curves
from ..inference.predictor import Predictor
from ..utils.visualize import DETECTION_COLOR, GROUND_TRUTH_COLOR, draw_boxes
from .neon_trees import prepare_neon_trees
from .pretrained import prepare_efficientnet_lite0

__all__ = ["QuickStartResult", "draw_dataset_image", "run_quickstart"]

# Weaker detections are not drawn. At 0.5 there are about as many detections as annotated trees.
_DRAWN_SCORE = 0.5
# Side of the training crops: a larger input would show the model objects and context it never saw.
_TILE = 256


@dataclass
class QuickStartResult:
    """Metrics and files of a quick start.

    Attributes:
        metrics: box metrics of detectron2's COCO evaluator, such as "AP50", in percent.
        config: path of the config of the trained model.
        weights: path of the trained weights.
        metrics_file: path of all logged numbers, one JSON object per line.
        image: path of the whole validation image with ground truth and detections.
        curves: path of the training curves.
    """

    metrics: dict[str, float]
    config: Path
    weights: Path
    metrics_file: Path
    image: Path
    curves: Path


def run_quickstart(
    overrides: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> QuickStartResult:
    """Fetch data and weights, train, evaluate, draw.

    Args:
        overrides: KEY VALUE pairs that change ``configs/quick_start.yaml``.
        say: function that receives one line at the start of each step.

    Returns:
        Metrics and paths of the files.

    Raises:
        RuntimeError: if data or weights cannot be fetched; says what to do.
    """
    root = Path(dataset_root())
    say(f"1/4 data: real aerial images with tree crowns, in {root / 'neon_trees'}")
    prepare_neon_trees(root)
    say(f"2/4 weights: EfficientNet-Lite0 trained on ImageNet, in {root / 'pretrained'}")
    weights = prepare_efficientnet_lite0(root)
    say("3/4 training and evaluation")
    words = ["--config-file", "quick_start.yaml", "MODEL.WEIGHTS", str(weights), *overrides]
    args = make_parser().parse_args(words)
    results = train_and_evaluate(args) or {}

    output = Path(load_cfg(args).OUTPUT_DIR)
    say(f"4/4 images, in {output}")
    result = QuickStartResult(
        metrics=dict(results["bbox"]),
        config=output / "config.yaml",
        weights=output / "model_final.pth",
        metrics_file=output / "metrics.json",
        image=output / "detections.png",
        curves=output / "curves.png",
    )
    cfg = get_cfg()
    cfg.merge_from_file(str(result.config))  # has the device that training really used
    predictor = Predictor.from_pretrained(
        result.config,
        result.weights,
        device=cfg.MODEL.DEVICE,
        score_threshold=_DRAWN_SCORE,
        tile=_TILE,
    )
    image = draw_dataset_image(predictor, "neon_trees_val_whole")
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(result.image)
    plot_curves(result.metrics_file, result.curves)
    return result


def draw_dataset_image(predictor: Predictor, dataset: str) -> Tensor:
    """Draw ground truth and detections on the first image of a dataset.

    Args:
        predictor: a trained model; its ``score_threshold`` selects the drawn detections.
        dataset: a registered name.

    Returns:
        (3, H, W) uint8, RGB, at the original size.
    """
    record = DatasetCatalog.get(dataset)[0]
    image = torch.from_numpy(read_rgb(record["file_name"])).permute(2, 0, 1)
    detections = predictor(image)
    truth = np.array([a["bbox"] for a in record["annotations"]], dtype=np.float32).reshape(-1, 4)
    truth[:, 2:] += truth[:, :2]  # COCO boxes are x, y, width, height
    image = draw_boxes(image, torch.from_numpy(truth), GROUND_TRUTH_COLOR)
    return draw_boxes(image, torch.from_numpy(detections.boxes), DETECTION_COLOR)
