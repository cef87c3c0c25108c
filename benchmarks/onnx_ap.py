"""AP and speed of exported ONNX files beside PyTorch, on a registered data set.

    python benchmarks/onnx_ap.py MODEL FILE.onnx [FILE.onnx ...] [--dataset NAME] [--threads N]

MODEL is the folder that the complete files were exported from. All see the same resized pictures,
one at a time, in turn: picture by picture PyTorch and then each file, so that whatever else the
machine does slows all of them. Times are medians over pictures, from pixels to detections.
"""

import argparse
import time

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from fcos_d2 import Predictor
from fcos_d2.export.metadata import read_metadata
from fcos_d2.export.runtime import load_exported, pad_batch


def average_precision(ground_truth: COCO, detections: list[dict]) -> tuple[float, float]:
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(detections), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0] * 100, evaluation.stats[1] * 100


def as_results(record: dict, shape, boxes, scores, classes, categories) -> list[dict]:
    """COCO results, in pixels of the original picture, of boxes in pixels of the network's."""
    scale = [record["width"] / shape[1], record["height"] / shape[0]] * 2
    boxes = np.asarray(boxes, dtype=np.float64) * scale
    return [
        {
            "image_id": record["image_id"],
            "category_id": categories[int(label)],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(score),
        }
        for (x1, y1, x2, y2), score, label in zip(boxes.tolist(), scores, classes)
    ]


def from_torch(predictor: Predictor):
    @torch.inference_mode()
    def detect(tensor):
        found = predictor.model([{"image": tensor}])[0]["instances"]
        return found.pred_boxes.tensor.numpy(), found.scores.numpy(), found.pred_classes.numpy()

    return detect


def from_file(path: str, threads: int):
    metadata = read_metadata(path)
    if metadata["nms"] != "inside":
        raise SystemExit(f"{path} has no NMS inside: export with --nms inside")
    run = load_exported(path, metadata["format"], metadata["nms"], threads=threads)

    def detect(tensor):
        found = run(*pad_batch([tensor], metadata["size_divisibility"]))
        count = int(found["count"][0])
        boxes = found["boxes"][0, :count]
        boxes[:, 2:] += metadata["added_to_x2_y2_after_scaling"]  # pictures here keep their size
        return boxes, found["scores"][0, :count], found["classes"][0, :count]

    return detect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--dataset", default="neon_trees_val")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3, help="of timing; the first one warms up")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    predictor = Predictor.from_pretrained(args.model, device="cpu")
    records = DatasetCatalog.get(args.dataset)
    metadata = MetadataCatalog.get(args.dataset)
    index_of_id = metadata.thing_dataset_id_to_contiguous_id
    categories = {index: id_ for id_, index in index_of_id.items()}
    sides = {"PyTorch": from_torch(predictor)}
    sides |= {path: from_file(path, args.threads) for path in args.files}

    results = {name: [] for name in sides}
    seconds = {name: [] for name in sides}
    for turn in range(args.rounds):
        for record in records:
            tensor = predictor.prepare(record["file_name"]).tensor
            for name, detect in sides.items():
                start = time.perf_counter()
                found = detect(tensor)
                if turn > 0:
                    seconds[name].append(time.perf_counter() - start)
                else:
                    shape = tensor.shape[-2:]
                    results[name] += as_results(record, shape, *found, categories)
    ground_truth = COCO(metadata.json_file)
    unit = float(np.median(seconds["PyTorch"])) if args.rounds > 1 else float("nan")
    rows = [
        (
            name,
            *average_precision(ground_truth, results[name]),
            float(np.median(seconds[name])) / unit if args.rounds > 1 else float("nan"),
        )
        for name in sides
    ]
    headers = ("", "AP", "AP50", "time, PyTorch = 1")
    print("\n" + tabulate(rows, headers, floatfmt=".2f", tablefmt="github"))
    print(f"PyTorch: {unit * 1000:.0f} ms a picture, {args.threads} threads")


if __name__ == "__main__":
    main()
