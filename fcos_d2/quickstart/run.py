"""From nothing to a trained, evaluated and drawn tree detector, in minutes on a CPU."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor

from ..checkpoint import FCOSCheckpointer
from ..config import get_cfg
from ..data.datasets.builtin import dataset_root
from ..engine.main import load_cfg, make_parser
from ..engine.main import main as train_and_evaluate
from ..evaluation.curves import plot_curves
from ..utils.visualize import DETECTION_COLOR, GROUND_TRUTH_COLOR, draw_boxes
from .neon_trees import prepare_neon_trees
from .pretrained import prepare_efficientnet_lite0

__all__ = ["QuickStartResult", "draw_dataset_picture", "run_quickstart"]

# Detections weaker than this are not drawn.
_DRAWN_SCORE = 0.3


@dataclass
class QuickStartResult:
    """What the quick start made; paths as given to the operating system.

    Attributes:
        metrics: of detectron2's COCO evaluator for boxes, such as "AP50", in percent.
        config, weights: of the trained model.
        metrics_file: every logged number, one JSON object a line.
        picture: the whole validation picture with ground truth and detections.
        curves: the training curves.
    """

    metrics: dict[str, float]
    config: Path
    weights: Path
    metrics_file: Path
    picture: Path
    curves: Path


def run_quickstart(
    overrides: Sequence[str] = (), say: Callable[[str], None] = lambda _: None
) -> QuickStartResult:
    """Fetch data and weights, train, evaluate, draw.

    Args:
        overrides: KEY VALUE pairs on top of ``configs/quick_start.yaml``.
        say: called with one line at the start of each step.

    Raises:
        RuntimeError: if the data or the weights cannot be fetched, saying what to do.
    """
    root = Path(dataset_root())
    say(f"1/4 data: real aerial pictures with tree crowns, in {root / 'neon_trees'}")
    prepare_neon_trees(root)
    say(f"2/4 weights: EfficientNet-Lite0 trained on ImageNet, in {root / 'pretrained'}")
    weights = prepare_efficientnet_lite0(root)
    say("3/4 training and evaluation")
    words = ["--config-file", "quick_start.yaml", "MODEL.WEIGHTS", str(weights), *overrides]
    args = make_parser().parse_args(words)
    results = train_and_evaluate(args)

    output = Path(load_cfg(args).OUTPUT_DIR)
    cfg = get_cfg()
    cfg.merge_from_file(str(output / "config.yaml"))  # with what the run changed, as the device
    say(f"4/4 pictures, in {output}")
    cfg.MODEL.WEIGHTS = str(output / "model_final.pth")
    result = QuickStartResult(
        metrics=dict(results["bbox"]),
        config=output / "config.yaml",
        weights=output / "model_final.pth",
        metrics_file=output / "metrics.json",
        picture=output / "detections.png",
        curves=output / "curves.png",
    )
    picture = draw_dataset_picture(cfg, "neon_trees_val_whole")
    Image.fromarray(picture.permute(1, 2, 0).numpy()).save(result.picture)
    plot_curves(result.metrics_file, result.curves)
    return result


def draw_dataset_picture(cfg, dataset: str, score_threshold: float = _DRAWN_SCORE) -> Tensor:
    """Ground truth and detections on the first picture of a data set, at its own size.

    Args:
        cfg: config of a trained model, with MODEL.WEIGHTS.
        dataset: a registered name.
        score_threshold: weaker detections are left out.

    Returns:
        (3, H, W) uint8, RGB.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.FCOS.POST_NMS_TOPK_TEST = 1000  # a whole picture holds more trees than a tile
    model = build_model(cfg).eval()
    FCOSCheckpointer(model).load(cfg.MODEL.WEIGHTS)

    record = DatasetCatalog.get(dataset)[0]
    rgb = torch.from_numpy(read_image(record["file_name"], "RGB").copy()).permute(2, 0, 1)
    image = rgb.flip(0) if cfg.INPUT.FORMAT == "BGR" else rgb
    with torch.no_grad():
        found = model([{"image": image}])[0]["instances"].to("cpu")
    found = found[found.scores > score_threshold]
    truth = np.array([a["bbox"] for a in record["annotations"]], dtype=np.float32).reshape(-1, 4)
    truth[:, 2:] += truth[:, :2]  # COCO's boxes are x, y, width, height
    picture = draw_boxes(rgb, torch.from_numpy(truth), GROUND_TRUTH_COLOR, width=2)
    return draw_boxes(picture, found.pred_boxes.tensor, DETECTION_COLOR, width=2)
