"""Detections on any picture, by a trained model, from Python."""

import colorsys
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from .checkpoint import FCOSCheckpointer
from .config import get_cfg
from .data.images import Picture, read_rgb
from .model_zoo import get_config_file, weights_url
from .tiles import cut_by_tile, merge_tiles, tile_windows

__all__ = ["Detections", "Predictor", "PreparedPicture", "class_color"]

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}

# What training and `fcos-d2 convert` write.
_WEIGHTS_FILES = ("model_best.pth", "model_final.pth", "model.pth")
# State that a model can be without and detect the same.
_NOT_FOR_INFERENCE = ("num_batches_tracked", "moving_num_fg")
# Pictures that may wait for others of their shape, in batches.
_BATCHES_WAITING = 4


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one picture, best first.

    Attributes:
        boxes: (K, 4) float32 x1, y1, x2, y2 in pixels of the upright original picture.
        scores: (K,) float32 in [0, 1].
        class_ids: (K,) int64, from 0.
        class_names: K names.
        image_size: (height, width) in pixels.
        source: path of the picture; None if it had none.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    class_names: list[str]
    image_size: tuple[int, int]
    source: str | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self, keep: np.ndarray) -> "Detections":
        """Those that ``keep`` chooses: (K,) bool, or indices in the order wanted."""
        chosen = np.arange(len(self.scores))[keep]
        return Detections(
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            class_ids=self.class_ids[keep],
            class_names=[self.class_names[i] for i in chosen],
            image_size=self.image_size,
            source=self.source,
        )

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict]:
        """Results in COCO's format.

        Args:
            image_id: of the picture.
            category_ids: the category id of each of the model's classes; None counts from 1.

        Returns:
            K dicts with ``bbox`` as x, y, width, height in pixels, to a thousandth.
        """
        return [
            {
                "image_id": image_id,
                "category_id": int(i + 1 if category_ids is None else category_ids[i]),
                "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
            for (x1, y1, x2, y2), score, i in zip(
                self.boxes.tolist(), self.scores.tolist(), self.class_ids.tolist()
            )
        ]

    def to_dict(self) -> dict:
        """All attributes as plain values for JSON: pixels to a thousandth, scores to 1e-5."""
        return {
            "source": self.source,
            "image_size": list(self.image_size),
            "boxes": [[round(v, 3) for v in box] for box in self.boxes.tolist()],
            "scores": [round(score, 5) for score in self.scores.tolist()],
            "class_ids": self.class_ids.tolist(),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Detections":
        """The inverse of :meth:`to_dict`; other entries are ignored."""
        return cls(
            boxes=np.array(values["boxes"], dtype=np.float32).reshape(-1, 4),
            scores=np.array(values["scores"], dtype=np.float32),
            class_ids=np.array(values["class_ids"], dtype=np.int64),
            class_names=list(values["class_names"]),
            image_size=tuple(values["image_size"]),
            source=values.get("source"),
        )

    def draw(self, image: Picture) -> Image.Image:
        """The picture with boxes, class names and scores, a colour for each class.

        Args:
            image: the picture these are of, as :func:`fcos_d2.data.images.read_rgb` takes it.

        Returns:
            A new RGB image.
        """
        picture = Image.fromarray(read_rgb(image))
        canvas = ImageDraw.Draw(picture)
        longest = max(picture.size)
        width = max(2, round(longest / 500))
        font = _font(min(max(longest // 60, 12), 48))
        for i in np.argsort(self.scores, kind="stable"):  # the best one on top
            color = class_color(int(self.class_ids[i]))
            x1, y1, x2, y2 = self.boxes[i].tolist()
            canvas.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=color, width=width)
            label = f"{self.class_names[i]} {self.scores[i]:.2f}"
            _draw_label(canvas, label, (x1, y1), color, font)
        return picture


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture on its way to the network.

    Attributes:
        tensor: (3, h, w) uint8 as the network takes it: resized, in its order of channels.
        rgb: (H, W, 3) uint8, the upright original.
        source: path; None if it had none.
    """

    tensor: Tensor
    rgb: np.ndarray
    source: str | None


class Predictor:
    """A trained model as a function of pictures.

    Args:
        model: as detectron2's ``build_model`` makes it, with trained weights; put in eval mode.
        cfg: its config; INPUT says how pictures are resized and the order of channels.
        class_names: one for each class.
        score_threshold: weaker detections are left out; None keeps all that the model gives
            (see MODEL.FCOS.INFERENCE_TH_TEST).
        precision: "fp32", "bf16" or "fp16" (CUDA only), through ``torch.autocast``.
        category_ids: ids of the classes in the data set they come from, if they are known.
        tile: look at larger pictures in tiles of so many pixels a side; None never does.
        overlap: share of a tile that its neighbour repeats; at least the size of an object.

    Attributes:
        network_seconds: spent in the network so far, up to its results on the CPU.

    Raises:
        ValueError: for a wrong number of names or an impossible precision.
    """

    def __init__(
        self,
        model: nn.Module,
        cfg,
        class_names: Sequence[str],
        *,
        score_threshold: float | None = None,
        precision: str = "fp32",
        category_ids: Sequence[int] | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ):
        _check_names("class_names", class_names, cfg)
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, expected RGB or BGR")
        self.model = model.eval()
        self.cfg = cfg
        self.class_names = list(class_names)
        self.category_ids = None if category_ids is None else list(category_ids)
        self.score_threshold = score_threshold
        self.precision = precision
        self.tile, self.overlap = tile, overlap
        if tile is not None:
            tile_windows(1, 1, tile, overlap)  # raises for impossible values
        self.device = next(model.parameters()).device
        self.network_seconds = 0.0
        check_precision(precision, self.device)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_config: str | os.PathLike,
        weights: str | os.PathLike | None = None,
        *,
        device: str | torch.device | None = None,
        score_threshold: float | None = None,
        precision: str = "fp32",
        tile: int | None = None,
        overlap: float = 0.2,
    ) -> "Predictor":
        """Load a model from what training or ``fcos-d2 convert`` wrote, or from the model zoo.

        Args:
            folder_or_config: a folder with ``config.yaml`` and weights, of which the newest of
                ``model_best.pth``, ``model_final.pth``, ``model.pth`` and the one named in
                ``last_checkpoint`` is taken; or a config as ``fcos_d2.get_config_file`` takes it.
            weights: path (also inside the folder) or address; None takes the folder's, or the
                config's MODEL.WEIGHTS.
            device: default is CUDA if it is there, else the CPU.
            score_threshold, precision, tile, overlap: see :class:`Predictor`.

        Raises:
            FileNotFoundError: if the config or the weights are not there.
            ValueError: if the weights do not fill the model, or for an impossible device.
        """
        config, weights = _locate(folder_or_config, weights)
        device = choose_device(device)
        check_precision(precision, device)
        cfg = get_cfg()
        cfg.merge_from_file(config)
        cfg.MODEL.DEVICE = str(device)
        cfg.MODEL.TIMM.PRETRAINED = False  # the weights are ours: nothing to download
        cfg.MODEL.WEIGHTS = weights or _trained_weights(cfg, str(folder_or_config))
        model = build_model(cfg)
        checkpoint = _load_all(model, cfg.MODEL.WEIGHTS, cfg.SOLVER.EMA.ENABLED)
        names = _class_names(cfg, checkpoint)
        return cls(
            model,
            cfg,
            names,
            score_threshold=score_threshold,
            precision=precision,
            category_ids=_category_ids(cfg, names),
            tile=tile,
            overlap=overlap,
        )

    def __call__(
        self, images: Picture | Iterable[Picture], *, batch_size: int = 1
    ) -> Detections | list[Detections] | Iterator[Detections]:
        """Detect.

        Args:
            images: a picture: a path, an encoded file as bytes, an array (H, W, 3) uint8 in BGR
                (as OpenCV and detectron2 have it) or (H, W) gray, a PIL image, or a tensor
                (3, H, W) uint8 in RGB; or a list, tuple or iterator of any of them.
            batch_size: pictures that the network sees at once at most. Only those of equal padded
                shape go together, so that the result does not depend on it.

        Returns:
            Detections of the picture; a list of them for a list or tuple; a generator of them for
            an iterator, which is read as the results are. All in the order of the input.

        Raises:
            OSError, ValueError, TypeError: for what cannot be read as a picture.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(images, (list, tuple)):
            return list(self(iter(images), batch_size=batch_size))
        if isinstance(images, Iterator):
            return (found for _, found in self.stream(map(self.prepare, images), batch_size))
        return self.detect([self.prepare(images)])[0]

    def prepare(self, picture: Picture) -> PreparedPicture:
        """Read and resize a picture as detectron2 does in evaluation; can run in any thread."""
        rgb = read_rgb(picture)
        height, width = rgb.shape[:2]
        shorter, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        resized = rgb
        if self._in_tiles(rgb):
            shorter = 0  # each tile is resized for itself
        if shorter > 0:
            size = ResizeShortestEdge.get_output_shape(height, width, shorter, longest)
            size = [max(side, 1) for side in size]  # of a line one pixel high nothing is left
            resized = ResizeTransform(height, width, *size).apply_image(rgb)
        if self.cfg.INPUT.FORMAT == "BGR":
            resized = resized[..., ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        source = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else None
        return PreparedPicture(tensor, rgb, source)

    def stream(
        self, pictures: Iterable[PreparedPicture], batch_size: int = 1
    ) -> Iterator[tuple[PreparedPicture, Detections]]:
        """Detect in batches of equal padded shape; reads ahead by a few batches at most.

        Yields:
            Each picture with its detections, in the order of the input.
        """
        done: dict[int, tuple[PreparedPicture, Detections]] = {}
        upcoming = 0
        shaped = ((self._padded_shape(picture.tensor), picture) for picture in pictures)
        for batch in _batches(shaped, batch_size, _BATCHES_WAITING * batch_size):
            found = self.detect([picture for _, picture in batch])
            for (i, picture), detections in zip(batch, found):
                done[i] = picture, detections
            del batch, picture  # held no longer than needed
            while upcoming in done:
                yield done.pop(upcoming)
                upcoming += 1

    @torch.inference_mode()
    def detect(self, pictures: Sequence[PreparedPicture]) -> list[Detections]:
        """Detections of one batch; :meth:`stream` chooses batches that padding does not change."""
        if any(self._in_tiles(p.rgb) for p in pictures):
            return [
                self._detect_tiles(p) if self._in_tiles(p.rgb) else self.detect([p])[0]
                for p in pictures
            ]
        start = time.perf_counter()
        inputs = [
            {"image": p.tensor, "height": p.rgb.shape[0], "width": p.rgb.shape[1]} for p in pictures
        ]
        kind = PRECISIONS[self.precision]
        with torch.autocast(self.device.type, dtype=kind) if kind else nullcontext():
            outputs = self.model(inputs)
        found = [self._to_detections(o["instances"], p) for o, p in zip(outputs, pictures)]
        self.network_seconds += time.perf_counter() - start
        return found

    def _in_tiles(self, rgb: np.ndarray) -> bool:
        return self.tile is not None and max(rgb.shape[:2]) > self.tile

    def _detect_tiles(self, picture: PreparedPicture) -> Detections:
        height, width = picture.rgb.shape[:2]
        windows = tile_windows(height, width, self.tile, self.overlap)
        parts, cut = [], []
        for x1, y1, x2, y2 in windows:
            tile = self.prepare(Image.fromarray(picture.rgb[y1:y2, x1:x2]))
            found = self.detect([tile])[0]
            found.boxes[:] += np.array([x1, y1, x1, y1], dtype=np.float32)
            boxes = torch.from_numpy(found.boxes)
            cut.append(cut_by_tile(boxes, (x1, y1, x2, y2), height, width))
            parts.append(found)
        together = Detections(
            boxes=np.concatenate([p.boxes for p in parts]),
            scores=np.concatenate([p.scores for p in parts]),
            class_ids=np.concatenate([p.class_ids for p in parts]),
            class_names=[name for p in parts for name in p.class_names],
            image_size=(height, width),
            source=picture.source,
        )
        keep = merge_tiles(
            torch.from_numpy(together.boxes),
            torch.from_numpy(together.scores),
            torch.from_numpy(together.class_ids),
            torch.cat(cut),
            self.cfg.MODEL.FCOS.NMS_TH,
        )
        return together.select(keep.numpy())

    def _to_detections(self, instances, picture: PreparedPicture) -> Detections:
        instances = instances.to("cpu")
        class_ids = instances.pred_classes.numpy().astype(np.int64)
        found = Detections(
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            class_ids=class_ids,
            class_names=[self.class_names[i] for i in class_ids],
            image_size=tuple(picture.rgb.shape[:2]),
            source=picture.source,
        )
        if self.score_threshold is None:
            return found
        return found.select(found.scores >= self.score_threshold)

    def _padded_shape(self, tensor: Tensor) -> tuple[int, int]:
        """(height, width) that detectron2's ``ImageList`` gives a picture on its own."""
        height, width = tensor.shape[-2:]
        constraints = self.model.backbone.padding_constraints
        if constraints.get("square_size", 0) > 0:
            height = width = constraints["square_size"]
        stride = constraints.get("size_divisibility", self.model.backbone.size_divisibility)
        stride = max(stride, 1)
        return -(-height // stride) * stride, -(-width // stride) * stride


def class_color(class_id: int) -> tuple[int, int, int]:
    """RGB; neighbouring classes get hues far apart."""
    hue = (0.52 + class_id * 0.618034) % 1  # the golden ratio never comes back to a hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.9 if class_id % 2 == 0 else 0.6, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device asked for, or CUDA if it is there, else the CPU.

    Raises:
        ValueError: if there is no such device.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"unknown device {device!r}: give cpu, cuda or cuda:1") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"there is no device {device}: torch sees {torch.cuda.device_count()} GPUs. Give cpu, "
            "or leave the device out"
        )
    return chosen


def check_precision(precision: str, device: torch.device) -> None:
    """Raises ValueError for an unknown precision and for fp16 on the CPU."""
    if precision not in PRECISIONS:
        raise ValueError(
            f"unknown precision {precision!r}, expected one of {', '.join(PRECISIONS)}"
        )
    if precision == "fp16" and device.type == "cpu":
        raise ValueError("precision fp16 does not work on the CPU: take bf16 or fp32, or a GPU")


def _batches(
    shaped: Iterable[tuple[tuple[int, int], PreparedPicture]], batch_size: int, window: int
) -> Iterator[list[tuple[int, PreparedPicture]]]:
    """Groups of equal shape, each picture with its position; none waits longer than ``window``."""
    waiting: dict[tuple[int, int], list[tuple[int, PreparedPicture]]] = {}
    for i, (shape, picture) in enumerate(shaped):
        waiting.setdefault(shape, []).append((i, picture))
        del picture
        oldest = next(iter(waiting))  # a dict keeps the order in which its keys came
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
        elif i - waiting[oldest][0][0] >= window:
            yield waiting.pop(oldest)
    yield from waiting.values()


def _locate(
    folder_or_config: str | os.PathLike, weights: str | os.PathLike | None
) -> tuple[str, str | None]:
    """Paths of the config and, where they are told, the weights."""
    path = os.fspath(folder_or_config)
    weights = None if weights is None else os.fspath(weights)
    if path.endswith((".pth", ".pkl")):
        raise ValueError(
            f"{path} holds weights: give its folder, if config.yaml is there, or the config first "
            "and this as the weights"
        )
    if not os.path.isdir(path):
        return get_config_file(path), weights
    config = Path(path) / "config.yaml"
    if not config.is_file():
        raise FileNotFoundError(
            f"no config.yaml in the folder {path}: give a folder that training or `fcos-d2 "
            "convert` wrote, or a config"
        )
    if weights is None:
        return str(config), _newest_weights(Path(path))
    inside = Path(path) / weights
    found_inside = not os.path.isfile(weights) and inside.is_file()
    return str(config), str(inside) if found_inside else weights


def _newest_weights(folder: Path) -> str:
    names = list(_WEIGHTS_FILES)
    last = folder / "last_checkpoint"
    if last.is_file():
        names.append(last.read_text("utf-8").strip())
    files = [folder / name for name in names if name and (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(
            f"no weights in the folder {folder}: none of {', '.join(names)} is there; give weights"
        )
    return str(max(files, key=lambda file: file.stat().st_mtime_ns))


def _trained_weights(cfg, config: str) -> str:
    """MODEL.WEIGHTS, unless it is plain that they are no trained detector's."""
    weights = cfg.MODEL.WEIGHTS
    if weights and "ImageNetPretrained" not in weights:
        return weights
    try:
        hint = f"; published are {weights_url(config)}"
    except ValueError:
        hint = ""
    raise ValueError(
        f"{config} names no trained detector: MODEL.WEIGHTS is {weights!r}. Give weights{hint}"
    )


def _load_all(model: nn.Module, weights: str, averaged: bool) -> dict:
    """Load weights that leave nothing random; returns what else the checkpoint holds."""
    checkpointer = FCOSCheckpointer(model)
    checkpointer.prefer_average = averaged
    checkpoint = checkpointer.load(weights)
    missing = checkpointer.missing_head_keys or [
        key for key in checkpointer.missing_keys if not key.endswith(_NOT_FOR_INFERENCE)
    ]
    if missing:
        raise ValueError(
            f"{weights} lacks {len(missing)} weights of the model, such as {missing[0]}, which "
            "would stay random. Give a trained detector, and the config it was trained with"
        )
    return checkpoint


def _class_names(cfg, checkpoint: dict) -> list[str]:
    told = {
        "class_names of the checkpoint": checkpoint.get("class_names"),
        "MODEL.FCOS.CLASS_NAMES": cfg.MODEL.FCOS.get("CLASS_NAMES"),
    }
    for where, names in told.items():
        if names:
            _check_names(where, names, cfg)
            return [str(name) for name in names]
    count = cfg.MODEL.FCOS.NUM_CLASSES
    names = _metadata(cfg, "thing_classes") or []
    return list(names) if len(names) == count else [f"class {i}" for i in range(count)]


def _category_ids(cfg, class_names: list[str]) -> list[int] | None:
    """Ids in the registered training set, if its classes are these."""
    index_of_id = _metadata(cfg, "thing_dataset_id_to_contiguous_id") or {}
    ids = sorted(index_of_id, key=index_of_id.get)
    known = _metadata(cfg, "thing_classes")
    same = known is not None and list(known) == class_names and len(ids) == len(class_names)
    return ids if same else None


def _metadata(cfg, key: str):
    """What the catalog knows of the first training set, without reading it; None if nothing."""
    name = next(iter(cfg.DATASETS.TRAIN), None)
    return MetadataCatalog.get(name).get(key) if name in DatasetCatalog else None


def _check_names(where: str, names: Sequence[str], cfg) -> None:
    count = cfg.MODEL.FCOS.NUM_CLASSES
    if len(names) != count:
        raise ValueError(
            f"{where}: {len(names)} names for the {count} classes of MODEL.FCOS.NUM_CLASSES"
        )


def _font(size: int):
    try:
        return ImageFont.load_default(size)
    except TypeError:  # Pillow before 10.1 has one size only
        return ImageFont.load_default()


def _draw_label(canvas: ImageDraw.ImageDraw, text: str, corner, color, font) -> None:
    """Text on a plate of ``color``, above the corner (x, y) or, without room there, below it."""
    left, top, right, bottom = canvas.textbbox((0, 0), text, font=font)
    margin = 2
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(corner[0], canvas.im.size[0] - width))
    y = corner[1] - height if corner[1] >= height else corner[1]
    canvas.rectangle((x, y, x + width, y + height), fill=color)
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128
    ink = (0, 0, 0) if bright else (255, 255, 255)
    canvas.text((x + margin - left, y + margin - top), text, fill=ink, font=font)
