"""Detection with a trained model from Python."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import overload

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor

from ..config import get_cfg
from ..data.images import ImageInput, read_rgb
from ..modeling.backbone.size import padded_size
from ..modeling.fcos import FCOS
from ..modeling.speed import fold_detector
from ..utils.device import autocast, check_precision, choose_device
from .detections import Detections
from .model_folder import (
    check_names,
    find_category_ids,
    find_class_names,
    load_all_weights,
    locate_model,
    trained_weights,
)
from .tiles import cut_by_tile, merge_tiles, tile_windows

__all__ = ["Predictor", "PreparedImage"]

# Number of batches of images that may wait for other images of their shape.
_BATCHES_WAITING = 4


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A resized image, ready for the network.

    Attributes:
        tensor: (3, h, w) uint8, resized, with channels in the order that the network takes.
        rgb: (H, W, 3) uint8, the upright original.
        source: path of the image; None for an image that was not read from a file.
    """

    tensor: Tensor
    rgb: np.ndarray
    source: str | None


class Predictor:
    """A trained model as a function of images.

    Args:
        model: a model from detectron2's ``build_model`` with trained weights; set to eval mode.
        cfg: config of the model; INPUT decides the resizing and the order of channels.
        class_names: one name per class.
        score_threshold: lowest score of a detection; None keeps everything the model returns
            (see MODEL.FCOS.INFERENCE_TH_TEST).
        precision: "fp32", "bf16" or "fp16" (CUDA only), through ``torch.autocast``; other
            spellings such as "float16" are accepted.
        category_ids: ids of the classes in their dataset, if they are known.
        tile: side in pixels of the tiles that larger images are cut into; None never cuts.
        overlap: share of a tile that its neighbor repeats; should be at least the size of an
            object.

    Attributes:
        network_seconds: time spent in the network so far, until its results are on the CPU.

    Raises:
        ValueError: for a wrong number of names or an impossible precision.
    """

    def __init__(
        self,
        model: FCOS,
        cfg,
        class_names: Sequence[str],
        *,
        score_threshold: float | None = None,
        precision: str = "fp32",
        category_ids: Sequence[int] | None = None,
        tile: int | None = None,
        overlap: float = 0.2,
    ):
        check_names("class_names", class_names, cfg)
        if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
            raise ValueError(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, expected RGB or BGR")
        self.model = model.eval()
        self.cfg = cfg
        self.class_names = list(class_names)
        self.category_ids = None if category_ids is None else list(category_ids)
        self.score_threshold = score_threshold
        self.tile, self.overlap = tile, overlap
        if tile is not None:
            tile_windows(1, 1, tile, overlap)  # raises for impossible values
        self.device = next(model.parameters()).device
        self.precision = check_precision(precision, self.device)
        self.network_seconds = 0.0

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
        fold: bool = True,
        compile_mode: str = "",
    ) -> "Predictor":
        """Load a model from a folder of training or ``fcos-d2 convert``, or from the model zoo.

        Args:
            folder_or_config: a folder with ``config.yaml`` and weights; or a config as
                ``fcos_d2.get_config_file`` takes it. In a folder, the newest of
                ``model_best.pth``, ``model_final.pth``, ``model.pth`` and the file named in
                ``last_checkpoint`` is loaded.
            weights: path (also inside the folder) or address; None takes the folder's weights, or
                the config's MODEL.WEIGHTS.
            device: default is CUDA if it is available, else the CPU.
            score_threshold, precision, tile, overlap: see :class:`Predictor`.
            fold: fold the backbone's batch norms into its convolutions. This changes results only
                by rounding; the model can then no longer be trained.
            compile_mode: "default", "reduce-overhead" (CUDA graphs) or "max-autotune" of
                ``torch.compile``; "" does not compile. Compilation takes about a minute, on the
                first image and once more on the first image of another size.

        Raises:
            FileNotFoundError: if the config or the weights do not exist.
            ValueError: if the weights do not fill the model, or for an impossible device.
        """
        config, weights = locate_model(folder_or_config, weights)
        device = choose_device(device)
        check_precision(precision, device)
        cfg = _load_cfg(config, device, compile_mode)
        cfg.MODEL.WEIGHTS = weights or trained_weights(cfg, str(folder_or_config))
        model = build_model(cfg)
        checkpoint = load_all_weights(model, cfg.MODEL.WEIGHTS, cfg.SOLVER.EMA.ENABLED)
        if fold:
            fold_detector(model.eval())
        names = find_class_names(cfg, checkpoint)
        return cls(
            model,
            cfg,
            names,
            score_threshold=score_threshold,
            precision=precision,
            category_ids=find_category_ids(cfg, names),
            tile=tile,
            overlap=overlap,
        )

    @classmethod
    def with_random_weights(
        cls,
        config: str | os.PathLike,
        *,
        device: str | torch.device | None = None,
        compile_mode: str = "",
    ) -> "Predictor":
        """Build the model of a config without weights, to measure its speed.

        Args:
            config: see ``fcos_d2.get_config_file``.
            device, compile_mode: see :meth:`from_pretrained`.

        Raises:
            FileNotFoundError: if the config does not exist.
            ValueError: for an impossible device.
        """
        config, _ = locate_model(config, None)
        cfg = _load_cfg(config, choose_device(device), compile_mode)
        cfg.MODEL.WEIGHTS = ""
        model = build_model(cfg)
        fold_detector(model.eval())
        return cls(model, cfg, [f"class {i}" for i in range(cfg.MODEL.FCOS.NUM_CLASSES)])

    @overload
    def __call__(self, images: ImageInput, *, batch_size: int = 1) -> Detections: ...

    @overload
    def __call__(
        self, images: list[ImageInput] | tuple[ImageInput, ...], *, batch_size: int = 1
    ) -> list[Detections]: ...

    @overload
    def __call__(
        self, images: Iterator[ImageInput], *, batch_size: int = 1
    ) -> Iterator[Detections]: ...

    def __call__(self, images, *, batch_size: int = 1):
        """Detect.

        Args:
            images: one image: a path, an encoded file as bytes, an array (H, W, 3) uint8 in BGR
                (the order of OpenCV and detectron2) or (H, W) gray, a PIL image, or a tensor
                (3, H, W) uint8 in RGB; or a list, tuple or iterator of images.
            batch_size: largest number of images per batch. Only images of equal padded shape
                share a batch, so results do not depend on the batch size.

        Returns:
            Detections of the image; a list of Detections for a list or tuple; for an iterator, a
            generator of Detections that reads its input lazily. The order is that of the input.

        Raises:
            OSError, ValueError, TypeError: for an input that cannot be read as an image.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(images, (list, tuple)):
            return [found for _, found in self.stream(map(self.prepare, images), batch_size)]
        if isinstance(images, Iterator):
            return (found for _, found in self.stream(map(self.prepare, images), batch_size))
        return self.detect([self.prepare(images)])[0]

    def prepare(self, image: ImageInput) -> PreparedImage:
        """Read and resize an image as detectron2 does in evaluation; can run in any thread.

        Raises:
            OSError, ValueError, TypeError: for an input that cannot be read as an image.
        """
        rgb = read_rgb(image)
        height, width = rgb.shape[:2]
        shorter, longest = self.cfg.INPUT.MIN_SIZE_TEST, self.cfg.INPUT.MAX_SIZE_TEST
        resized = rgb
        if self._in_tiles(rgb):
            shorter = 0  # each tile is resized on its own
        if shorter > 0:
            size = ResizeShortestEdge.get_output_shape(height, width, shorter, longest)
            size = [max(side, 1) for side in size]  # a one-pixel side could round to zero
            resized = ResizeTransform(height, width, *size).apply_image(rgb)
        if self.cfg.INPUT.FORMAT == "BGR":
            resized = resized[..., ::-1]
        tensor = torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))
        source = os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
        return PreparedImage(tensor, rgb, source)

    def stream(
        self, images: Iterable[PreparedImage], batch_size: int = 1
    ) -> Iterator[tuple[PreparedImage, Detections]]:
        """Detect in batches of equal padded shape; reads at most a few batches ahead.

        Yields:
            Each image with its detections, in the order of the input.
        """
        done: dict[int, tuple[PreparedImage, Detections]] = {}
        upcoming = 0
        backbone = self.model.backbone
        shaped = ((padded_size(backbone, *image.tensor.shape[-2:]), image) for image in images)
        for batch in _batches(shaped, batch_size, _BATCHES_WAITING * batch_size):
            found = self.detect([image for _, image in batch])
            for (i, image), detections in zip(batch, found):
                done[i] = image, detections
            del batch, image  # frees the memory of yielded images
            while upcoming in done:
                yield done.pop(upcoming)
                upcoming += 1

    @torch.inference_mode()
    def detect(self, images: Sequence[PreparedImage]) -> list[Detections]:
        """Detect in one batch; :meth:`stream` chooses batches whose padding changes no result."""
        if any(self._in_tiles(image.rgb) for image in images):
            return [
                self._detect_tiles(image) if self._in_tiles(image.rgb) else self.detect([image])[0]
                for image in images
            ]
        start = time.perf_counter()
        inputs = [
            {"image": image.tensor, "height": image.rgb.shape[0], "width": image.rgb.shape[1]}
            for image in images
        ]
        with self.autocast():
            outputs = self.model(inputs)
        found = [
            self._to_detections(output["instances"], image)
            for output, image in zip(outputs, images)
        ]
        self.network_seconds += time.perf_counter() - start
        return found

    def autocast(self) -> AbstractContextManager:
        """Autocast context for the precision of this predictor."""
        return autocast(self.precision, self.device)

    def _in_tiles(self, rgb: np.ndarray) -> bool:
        return self.tile is not None and max(rgb.shape[:2]) > self.tile

    def _detect_tiles(self, image: PreparedImage) -> Detections:
        assert self.tile is not None  # see _in_tiles
        height, width = image.rgb.shape[:2]
        windows = tile_windows(height, width, self.tile, self.overlap)
        parts, cut = [], []
        for x1, y1, x2, y2 in windows:
            tile = self.prepare(Image.fromarray(image.rgb[y1:y2, x1:x2]))
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
            source=image.source,
        )
        keep = merge_tiles(
            torch.from_numpy(together.boxes),
            torch.from_numpy(together.scores),
            torch.from_numpy(together.class_ids),
            torch.cat(cut),
            self.cfg.MODEL.FCOS.NMS_TH,
        )
        return together.select(keep.numpy())

    def _to_detections(self, instances, image: PreparedImage) -> Detections:
        instances = instances.to("cpu")
        class_ids = instances.pred_classes.numpy().astype(np.int64)
        found = Detections(
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            class_ids=class_ids,
            class_names=[self.class_names[i] for i in class_ids],
            image_size=tuple(image.rgb.shape[:2]),
            source=image.source,
        )
        if self.score_threshold is None:
            return found
        return found.select(found.scores >= self.score_threshold)


def _load_cfg(config: str, device: torch.device, compile_mode: str) -> CfgNode:
    cfg = get_cfg()
    cfg.merge_from_file(config)
    cfg.MODEL.DEVICE = str(device)
    cfg.MODEL.TIMM.PRETRAINED = False  # all weights come from elsewhere: nothing to download
    cfg.MODEL.FCOS.COMPILE = compile_mode
    return cfg


def _batches(
    shaped: Iterable[tuple[tuple[int, int], PreparedImage]], batch_size: int, window: int
) -> Iterator[list[tuple[int, PreparedImage]]]:
    """Group images of equal shape into batches.

    Args:
        shaped: padded shape and image.
        batch_size: images per batch.
        window: an image waits for at most this many later images.

    Yields:
        Images of equal shape, each with its position in the input.
    """
    waiting: dict[tuple[int, int], list[tuple[int, PreparedImage]]] = {}
    for i, (shape, image) in enumerate(shaped):
        waiting.setdefault(shape, []).append((i, image))
        del image
        oldest = next(iter(waiting))  # a dict keeps the order of insertion
        if len(waiting[shape]) == batch_size:
            yield waiting.pop(shape)
        elif i - waiting[oldest][0][0] >= window:
            yield waiting.pop(oldest)
    yield from waiting.values()
