"""FCOS, the meta architecture: from images to losses or detections, in call order.

Papers: FCOS (ICCV 2019, arXiv 1904.01355) and its improved version (TPAMI 2020, arXiv 2006.09214).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ..utils.device import to_device
from ..utils.visualize import training_picture
from . import speed
from .backbone.size import padded_size
from .build import check_choice, fcos_arguments, make_criterion, old_arguments, select_features
from .criterion import FCOSCriterion, LossNormalizers
from .ground_truth import collect_ground_truth
from .head import FCOSHead, Predictions
from .locations import LocationGenerator
from .postprocess import PostprocessOptions, detect_images, rescale_detections

__all__ = ["FCOS"]


class FCOS(nn.Module):
    """Fully convolutional one-stage detector with detectron2's model interface.

    Args:
        backbone: returns the feature maps named in ``in_features``, all with the same channels.
        head: predicts from the feature maps; see :class:`FCOSHead`.
        criterion: losses; see :class:`FCOSCriterion`. ``None`` takes the defaults of the config.
        in_features: feature names; ``None`` takes all of the backbone's, fine to coarse.
        pixel_mean, pixel_std: one value for each channel, in the order of ``input_format``.
        input_format: channel order of the images, "BGR" or "RGB"; used to draw only.
        even_grid: place locations as torchvision does; see :class:`LocationGenerator`.
        postprocess: options of inference.
        postprocess_train: options for detections that are drawn during training.
        vis_period: draw ground truth and detections every N iterations; 0 never.
        memory_format, fold_norms, compile_mode: see :mod:`fcos_d2.modeling.speed`.
        old: arguments of version 0.1, which ``criterion`` and ``postprocess`` replace.

    Raises:
        ValueError: for options that contradict each other or the backbone.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: FCOSHead,
        criterion: FCOSCriterion | None = None,
        in_features: Sequence[str] | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
        even_grid: bool = False,
        postprocess: PostprocessOptions | None = None,
        postprocess_train: PostprocessOptions | None = None,
        vis_period: int = 0,
        memory_format: str = "auto",
        fold_norms: bool = True,
        compile_mode: str = "",
        **old: Any,
    ):
        super().__init__()
        check_choice("MEMORY_FORMAT", memory_format, speed.MEMORY_FORMATS)
        self.in_features, self.strides, _ = select_features(backbone, in_features)
        postprocess = postprocess or PostprocessOptions()
        postprocess_train = postprocess_train or postprocess
        if old:
            criterion, even_grid, postprocess, postprocess_train = old_arguments(
                old, len(self.strides), head.box_coder, postprocess, postprocess_train
            )
        self.backbone, self.head = backbone, head
        self.criterion = criterion or make_criterion(len(self.strides), head.box_coder)
        self.location_generator = LocationGenerator(tuple(self.strides), even_grid)
        self.input_format = input_format
        self.postprocess, self.postprocess_train = postprocess, postprocess_train
        self.vis_period, self.memory_format = vis_period, memory_format
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        is_moving = self.criterion.cls_normalizer == "moving_fg"
        # The name is that of AdelaiDet's checkpoints.
        self.register_buffer("moving_num_fg", torch.tensor(100.0) if is_moving else None)
        if memory_format == "channels_last":
            speed.order_weights(self)
        if fold_norms:
            speed.fold_for_training(backbone)
        self.compile_network(compile_mode)

    @classmethod
    def from_config(cls, cfg):
        return fcos_arguments(cfg)

    pixel_mean: Tensor
    pixel_std: Tensor
    moving_num_fg: Tensor | None

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def is_channels_last(self) -> bool:
        """True if images and features are in channels-last order."""
        return speed.uses_channels_last(self.memory_format, self.device)

    def forward(
        self, batched_inputs: list[dict], normalizers: LossNormalizers | None = None
    ) -> dict[str, Tensor] | list[dict]:
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: detectron2's data-loader format: dicts with ``image`` (3, H, W), in
                training ``instances``, optionally ``height`` and ``width`` of the output.
            normalizers: divisors of the losses, if this is a micro-batch; see :meth:`normalizers`.

        Returns:
            dict of scalar losses in training; otherwise a list of ``{"instances": Instances}``
            with ``pred_boxes``, ``scores`` and ``pred_classes`` in output coordinates.
        """
        if self.training:
            return self.losses(batched_inputs, normalizers)
        images = self.preprocess_image(batched_inputs)
        predictions = self.predict(images.tensor)
        coder = self.head.box_coder
        detections = detect_images(predictions, images.image_sizes, self.postprocess, coder)
        results = []
        for found, x in zip(detections, batched_inputs, strict=True):
            height, width = (x.get(k, s) for k, s in zip(("height", "width"), found.image_size))
            found = rescale_detections(found, height, width, self.postprocess)
            results.append({"instances": found})
        return results

    def losses(
        self,
        batched_inputs: list[dict],
        normalizers: LossNormalizers | None = None,
        *,
        sync: bool = True,
    ) -> dict[str, Tensor]:
        """Losses of a batch, in training or evaluation mode.

        Args:
            batched_inputs, normalizers: see :meth:`forward`.
            sync: see :meth:`FCOSCriterion.normalizers`; False for validation, where processes may
                see different numbers of batches and nothing in the model may change.
        """
        size = normalizers.padded_size if normalizers else None
        images = self.preprocess_image(batched_inputs, size)
        predictions = self.predict(images.tensor)
        truth = collect_ground_truth(batched_inputs, self.head.num_classes, self.device)
        targets = self.criterion.targets(predictions.locations, truth, predictions)
        if normalizers is None:
            normalizers = self.criterion.normalizers(targets, self.moving_num_fg, sync=sync)
        losses = self.criterion(predictions, targets, normalizers)
        if self.training:
            self._draw(batched_inputs, predictions, images.image_sizes)
        return losses

    def normalizers(self, batched_inputs: list[dict]) -> LossNormalizers:
        """Divisors of the losses of a whole step, for :meth:`forward` of each micro-batch.

        The losses of the micro-batches then sum to those of the whole batch. Takes one more
        assignment, but no forward pass.
        """
        sizes = [x["image"].shape[-2:] for x in batched_inputs]
        size = padded_size(self.backbone, max(h for h, _ in sizes), max(w for _, w in sizes))
        shapes = self.location_generator.shapes(size)
        locations = self.location_generator(shapes, size, self.device)
        truth = collect_ground_truth(batched_inputs, self.head.num_classes, self.device)
        targets = self.criterion.targets(locations, truth)
        normalizers = self.criterion.normalizers(targets, self.moving_num_fg)
        return replace(normalizers, padded_size=size)

    def preprocess_image(
        self, batched_inputs: list[dict], padded_size: tuple[int, int] | None = None
    ) -> ImageList:
        """Normalize, then pad with zeros at the right and bottom to a common size, or to this."""
        images = [
            (to_device(x["image"], self.device) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        if padded_size is not None:
            height, width = batch.tensor.shape[-2:]
            missing = (0, padded_size[1] - width, 0, padded_size[0] - height)
            batch.tensor = F.pad(batch.tensor, missing)
        if self.is_channels_last:
            batch.tensor = batch.tensor.contiguous(memory_format=torch.channels_last)
        return batch

    def predict(self, images: Tensor) -> Predictions:
        """Dense predictions of images (N, 3, H, W), normalized and padded."""
        if self._network is not type(self).network:
            torch.compiler.cudagraph_mark_step_begin()
        logits, boxes, quality = self._network(self, images)
        shapes = [level.shape[-2:] for level in quality]
        locations = self.location_generator(shapes, images.shape[-2:], self.device)
        return Predictions(logits, boxes, quality, locations)

    def network(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Backbone and head, everything that has weights; see :meth:`FCOSHead.forward`."""
        features = self.backbone(images)
        return self.head([features[name] for name in self.in_features])

    def compile_network(self, mode: str = "default") -> None:
        """Compile :meth:`network`, see ``speed.compile_function``; "" restores the eager one."""
        check_choice("COMPILE", mode, speed.COMPILE_MODES)
        # Compile the function, not the bound method: a deepcopy must use its own weights.
        network = type(self).network
        self._network = speed.compile_function(network, self, mode) if mode else network

    def detect_without_nms(self, batched_inputs: list[dict]) -> list[Instances]:
        """Detections before NMS, in network-input pixels; test-time augmentation merges them."""
        images = self.preprocess_image(batched_inputs)
        options = replace(self.postprocess, nms_type="none", max_detections=-1)
        predictions = self.predict(images.tensor)
        return detect_images(predictions, images.image_sizes, options, self.head.box_coder)

    def _draw(self, batched_inputs, predictions: Predictions, image_sizes) -> None:
        """Draw ground truth and detections of the first image every ``vis_period`` iterations."""
        storage = get_event_storage() if self.vis_period > 0 and has_event_storage() else None
        if storage is not None and storage.iter % self.vis_period == 0:
            options, coder = self.postprocess_train, self.head.box_coder
            detections = detect_images(predictions, image_sizes, options, coder)
            image = training_picture(batched_inputs[0], detections[0], self.input_format)
            storage.put_image("Left: ground truth. Right: detections", image)
