"""Detections on any picture, by a trained model, from Python."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform
from detectron2.modeling import build_model
from PIL import Image
from torch import Tensor, nn

from ..config import get_cfg
from ..data.images import ImageInput, read_rgb
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

__all__ = ["Predictor", "PreparedPicture"]

# Pictures that may wait for others of their shape, in batches.
_BATCHES_WAITING = 4


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
        check_names("class_names", class_names, cfg)
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
        fold: bool = True,
        compile_mode: str = "",
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
            fold: put the backbone's batch norms into the weights of its convolutions, which
                changes results by rounding only; the model can then no longer be trained.
            compile_mode: "default", "reduce-overhead" (CUDA graphs) or "max-autotune" of
                ``torch.compile``, which takes a minute at the first picture of each size until
                two sizes were there; "" does not compile.

        Raises:
            FileNotFoundError: if the config or the weights are not there.
            ValueError: if the weights do not fill the model, or for an impossible device.
        """
        config, weights = locate_model(folder_or_config, weights)
        device = choose_device(device)
        check_precision(precision, device)
        cfg = get_cfg()
        cfg.merge_from_file(config)
        cfg.MODEL.DEVICE = str(device)
        cfg.MODEL.TIMM.PRETRAINED = False  # the weights are ours: nothing to download
        cfg.MODEL.FCOS.COMPILE = compile_mode
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

    def __call__(
        self, images: ImageInput | Iterable[ImageInput], *, batch_size: int = 1
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

    def prepare(self, picture: ImageInput) -> PreparedPicture:
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
        with self.autocast():
            outputs = self.model(inputs)
        found = [self._to_detections(o["instances"], p) for o, p in zip(outputs, pictures)]
        self.network_seconds += time.perf_counter() - start
        return found

    def autocast(self) -> AbstractContextManager:
        """Within this the network computes in the precision of this predictor."""
        return autocast(self.precision, self.device)

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
