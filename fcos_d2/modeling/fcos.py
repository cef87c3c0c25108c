"""FCOS, the meta architecture: the whole flow from images to losses or detections on one page.

Papers: FCOS (ICCV 2019, arXiv 1904.01355) and its improved version (TPAMI 2020, arXiv 2006.09214).
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import Backbone, build_backbone
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ..utils.device import to_device
from ..utils.visualize import training_picture
from .assigners.center import Matches, assign_boxes, inside_any, ltrb_distances
from .build import select_features
from .compat import Compat
from .head import FCOSHead
from .locations import Locations, make_locations, size_ranges
from .losses.box import BOX_LOSSES, centerness_targets, ltrb_iou_loss
from .losses.focal import sigmoid_focal_loss
from .nms import NMS_TYPES
from .postprocess import PostprocessOptions, detect_images, rescale_detections
from .speed import fold_frozen_norms

__all__ = ["FCOS"]

# A logit that costs background nothing, in any precision.
_SURE_BACKGROUND = -1e4
CLS_NORMALIZERS = ("fg", "moving_fg", "all")
BOX_QUALITIES = ("ctrness", "iou")
MEMORY_FORMATS = ("auto", "channels_last", "contiguous")
COMPILE_MODES = ("", "default", "reduce-overhead", "max-autotune")

# Class logits, ltrb distances and quality logits: L maps each.
Predictions = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True)
class _Step:
    """What the parts of one training step have in common.

    Attributes:
        num_positive, sum_centerness, cls_normalizer: what losses are divided by, scalars.
        padded_size: (height, width) of all images of the step.
    """

    num_positive: Tensor
    sum_centerness: Tensor
    cls_normalizer: Tensor | float
    padded_size: tuple[int, int]


class FCOS(nn.Module):
    """Fully convolutional one-stage detector with detectron2's model interface.

    Args:
        backbone: gives the feature maps named in ``in_features``, all with the same channels.
        head: predicts from them; see :class:`FCOSHead`.
        in_features: feature names; ``None`` takes all of the backbone's, fine to coarse.
        pixel_mean, pixel_std: one value for each channel, in the order of ``input_format``.
        input_format: channel order of the images, "BGR" or "RGB"; used to draw only.
        sizes_of_interest: sizes in pixels at which one level hands over to the next (L - 1).
        center_radius: of centre sampling, in strides; ``None`` learns from whole boxes.
        loc_loss_type: "iou", "linear_iou" or "giou".
        box_quality: "ctrness" (centerness, which also weighs the box loss) or "iou".
        focal_alpha, focal_gamma: of the classification loss.
        cls_loss_weight: factor of the classification loss.
        cls_loss_normalizer: what divides it: "fg" (positives), "moving_fg" (their moving
            average) or "all" (locations); each averaged over processes.
        postprocess: options of inference.
        postprocess_train: the same for :meth:`inference` on a model in training mode.
        compat: conventions of other code; see :class:`Compat`.
        vis_period: draw ground truth and detections every so many iterations; 0 never.
        memory_format: of images and features: "channels_last", "contiguous", or "auto", which
            takes the first on a CPU.
        fold_norms: compute frozen norms of the backbone as part of its convolutions.
        compile_mode: of ``torch.compile`` for :meth:`network`, in one graph: "default",
            "reduce-overhead" (CUDA graphs) or "max-autotune"; "" does not compile.

    Raises:
        ValueError: for options that contradict each other or the backbone.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: FCOSHead,
        in_features: Sequence[str] | None = None,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        input_format: str = "BGR",
        sizes_of_interest: Sequence[float] = (64, 128, 256, 512),
        center_radius: float | None = 1.5,
        loc_loss_type: str = "giou",
        box_quality: str = "ctrness",
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        cls_loss_weight: float = 1.0,
        cls_loss_normalizer: str = "fg",
        postprocess: PostprocessOptions | None = None,
        postprocess_train: PostprocessOptions | None = None,
        compat: Compat | None = None,
        vis_period: int = 0,
        memory_format: str = "auto",
        fold_norms: bool = True,
        compile_mode: str = "",
    ):
        super().__init__()
        _check_choice("LOC_LOSS_TYPE", loc_loss_type, BOX_LOSSES)
        _check_choice("BOX_QUALITY", box_quality, BOX_QUALITIES)
        _check_choice("LOSS_NORMALIZER_CLS", cls_loss_normalizer, CLS_NORMALIZERS)
        _check_choice("MEMORY_FORMAT", memory_format, MEMORY_FORMATS)
        _check_choice("COMPILE", compile_mode, COMPILE_MODES)
        if center_radius is not None and center_radius <= 0:
            raise ValueError(
                f"MODEL.FCOS.POS_RADIUS must be positive, got {center_radius}; set "
                "MODEL.FCOS.CENTER_SAMPLE False to learn from whole boxes"
            )
        self.backbone = backbone
        self.head = head
        self.in_features, self.strides = select_features(backbone, in_features)[:2]
        self.input_format = input_format
        self.ranges = size_ranges(sizes_of_interest, len(self.in_features))
        self.center_radius = center_radius
        self.loc_loss_type = loc_loss_type
        self.box_quality = box_quality
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.cls_loss_weight = cls_loss_weight
        self.cls_loss_normalizer = cls_loss_normalizer
        for options in (postprocess, postprocess_train):
            if options is not None:
                _check_choice("NMS_TYPE", options.nms_type, NMS_TYPES)
        self.postprocess = postprocess or PostprocessOptions()
        self.postprocess_train = postprocess_train or self.postprocess
        self.compat = compat or Compat()
        self.vis_period = vis_period
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self._step: _Step | None = None
        self._is_alone = False
        self.memory_format = memory_format
        if memory_format == "channels_last":
            self.order_weights()
        if fold_norms:
            fold_frozen_norms(self.backbone)
        self.compile_network(compile_mode)
        if cls_loss_normalizer == "moving_fg":
            self.register_buffer("moving_num_fg", torch.tensor(100.0))

    @classmethod
    def from_config(cls, cfg):
        fcos = cfg.MODEL.FCOS
        backbone = build_backbone(cfg)
        names, _, channels = select_features(backbone, fcos.IN_FEATURES)
        return {
            "backbone": backbone,
            "head": FCOSHead(
                in_channels=channels,
                num_levels=len(names),
                num_classes=fcos.NUM_CLASSES,
                num_cls_convs=fcos.NUM_CLS_CONVS,
                num_box_convs=fcos.NUM_BOX_CONVS,
                num_share_convs=fcos.NUM_SHARE_CONVS,
                norm=fcos.NORM,
                use_deformable=fcos.USE_DEFORMABLE,
                use_scale=fcos.USE_SCALE,
                prior_prob=fcos.PRIOR_PROB,
                prior_distance=fcos.PRIOR_DISTANCE,
                centerness_on_reg=fcos.CENTERNESS_ON_REG,
                norm_reg_targets=fcos.NORM_REG_TARGETS,
            ),
            "in_features": fcos.IN_FEATURES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "sizes_of_interest": fcos.SIZES_OF_INTEREST,
            "center_radius": fcos.POS_RADIUS if fcos.CENTER_SAMPLE else None,
            "loc_loss_type": fcos.LOC_LOSS_TYPE,
            "box_quality": fcos.BOX_QUALITY,
            "focal_alpha": fcos.LOSS_ALPHA,
            "focal_gamma": fcos.LOSS_GAMMA,
            "cls_loss_weight": fcos.LOSS_WEIGHT_CLS,
            "cls_loss_normalizer": fcos.LOSS_NORMALIZER_CLS,
            "postprocess": _postprocess_options(fcos, "TEST"),
            "postprocess_train": _postprocess_options(fcos, "TRAIN"),
            "compat": Compat(**{key.lower(): value for key, value in fcos.COMPAT.items()}),
            "vis_period": cfg.VIS_PERIOD,
            "memory_format": fcos.MEMORY_FORMAT,
            "fold_norms": fcos.FOLD_NORMS,
            "compile_mode": fcos.COMPILE,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def is_channels_last(self) -> bool:
        """Whether images and features are ordered so, by ``memory_format`` and the device."""
        is_auto = self.memory_format == "auto"
        return self.memory_format == "channels_last" or (is_auto and self.device.type == "cpu")

    def order_weights(self) -> None:
        """Order all convolution weights in memory as images are, which saves copies of them."""
        if not self.is_channels_last:
            return
        for weight in self.parameters():
            if weight.dim() == 4:
                # Unlike .to(), this gives 1x1 kernels the strides that their gradients have.
                ordered = torch.empty_like(weight, memory_format=torch.channels_last)
                weight.data = ordered.copy_(weight.data)

    def forward(self, batched_inputs: list[dict]):
        """Losses in training, detections otherwise.

        Args:
            batched_inputs: detectron2's data-loader format: a list of dicts with ``image``
                (3, H, W), in training ``instances`` (``gt_boxes``, ``gt_classes``), optionally
                ``height`` and ``width`` of the output.

        Returns:
            dict of scalar losses in training; otherwise a list of ``{"instances": Instances}``
            with ``pred_boxes``, ``scores`` and ``pred_classes`` in output coordinates.
        """
        images = self.preprocess_image(batched_inputs)
        predictions = self.predict(images.tensor)
        locations = self._locations(predictions, images.tensor.shape[-2:])
        if not self.training:
            detections = self.inference(*predictions, locations, images.image_sizes)
            return [
                {"instances": self._rescale(d, x)}
                for d, x in zip(detections, batched_inputs, strict=True)
            ]
        instances = self._ground_truth(batched_inputs)
        ignore = [
            to_device(x["ignore_boxes"], self.device) for x in batched_inputs if "ignore_boxes" in x
        ]
        losses = self.losses(*predictions, locations, instances, ignore or None)
        self._visualize(batched_inputs, predictions, locations, images.image_sizes)
        return losses

    def candidates(self, batched_inputs: list[dict]) -> list[Instances]:
        """What is there before NMS, in the network's pixels: what test-time augmentation merges."""
        images = self.preprocess_image(batched_inputs)
        predictions = self.predict(images.tensor)
        locations = self._locations(predictions, images.tensor.shape[-2:])
        every = replace(self.postprocess, nms_type="none", max_detections=-1)
        return self.inference(*predictions, locations, images.image_sizes, every)

    def network(self, images: Tensor) -> Predictions:
        """Backbone and head, all that has weights.

        Args:
            images: (N, 3, H, W), normalised and padded.

        Returns:
            Logits, distances and quality logits, L maps each; see :class:`FCOSHead`.
        """
        features = self.backbone(images)
        return self.head([features[name] for name in self.in_features])

    def compile_network(self, mode: str = "default") -> None:
        """Let ``torch.compile`` make one graph of :meth:`network`; "" takes it back.

        That happens at the first call, and once more for another number of images or size of them.

        Args:
            mode: "default", "reduce-overhead" (CUDA graphs, for sizes that repeat) or
                "max-autotune".
        """
        _check_choice("COMPILE", mode, COMPILE_MODES)
        # Of the class, so that a copy of this model does not use the weights of this one.
        network = type(self).network
        # Symbolic sizes never come to an end in timm's convolutions of "same" padding.
        same = any(type(module).__name__ == "Conv2dSame" for module in self.modules())
        dynamic = False if same else None
        self._network = torch.compile(network, mode=mode, dynamic=dynamic) if mode else network

    def predict(self, images: Tensor) -> Predictions:
        """:meth:`network`, compiled if it was asked for."""
        if self._network is not type(self).network:
            torch.compiler.cudagraph_mark_step_begin()
        return self._network(self, images)

    def _locations(self, predictions: Predictions, padded_size: tuple[int, int]) -> Locations:
        shapes = [tuple(quality.shape[-2:]) for quality in predictions[2]]
        divide = tuple(padded_size) if self.compat.grid_locations else None
        return make_locations(shapes, self.strides, self.device, divide=divide)

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise, then pad with zeros at the right and bottom to a common size."""
        images = [
            (to_device(x["image"], self.device) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        batch = ImageList.from_tensors(
            images,
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )
        if self._step is not None:
            height, width = self._step.padded_size
            missing = width - batch.tensor.shape[-1], height - batch.tensor.shape[-2]
            batch.tensor = F.pad(batch.tensor, (0, missing[0], 0, missing[1]))
        if self.is_channels_last:
            batch.tensor = batch.tensor.contiguous(memory_format=torch.channels_last)
        return batch

    def losses(
        self,
        logits: Sequence[Tensor],
        distances: Sequence[Tensor],
        quality: Sequence[Tensor],
        locations: Locations,
        instances: Sequence[Instances],
        ignore: Sequence[Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; each process divides by averages over all processes.

        Args:
            logits, distances, quality: what :meth:`network` predicts.
            locations: their P locations.
            instances: N ground truths with ``gt_boxes`` and ``gt_classes``.
            ignore: N times (K_i, 4) boxes, in pixels, inside which background is not learned.

        Returns:
            ``loss_fcos_cls``, ``loss_fcos_loc`` and ``loss_fcos_ctr`` or ``loss_fcos_iou``,
            float32 and attached to every parameter of the head, with or without boxes.
        """
        matches = self.assign(locations, instances)
        owns, targets = matches.owns, self._box_targets(locations, instances, matches)
        # Pairs that do not count get any finite values, and no gradient.
        predicted = _flatten(distances)[matches.image, matches.point].float()
        predicted = predicted.where(owns[:, None], 1.0)
        quality_logits = _flatten(quality)[matches.image, matches.point, 0].float()

        smoothing = 0.0 if self.compat.unsmoothed_iou else 1.0
        box_losses, iou = ltrb_iou_loss(predicted, targets, self.loc_loss_type, smoothing)
        centerness = centerness_targets(targets) * owns
        num_positive, sum_centerness, cls_normalizer = self._normalizers(
            owns, centerness, len(instances) * len(locations.points)
        )
        if self.box_quality == "ctrness":
            quality_name, quality_targets = "loss_fcos_ctr", centerness
        else:
            quality_name, quality_targets = "loss_fcos_iou", iou.detach()
        if self.box_quality == "ctrness" and not self.compat.unweighted_box_loss:
            loss_loc = (box_losses * centerness).sum() / sum_centerness.clamp(min=1e-6)
        else:
            loss_loc = (box_losses * owns).sum() / num_positive
        loss_quality = F.binary_cross_entropy_with_logits(
            quality_logits.where(owns, 0.0), quality_targets, weight=owns.float(), reduction="sum"
        )
        if ignore is not None:
            logits = _without_unknown(logits, locations, matches, ignore)
        classes = torch.cat([x.gt_classes for x in instances])[matches.box]
        loss_cls = self._class_loss(logits, locations, matches, classes) / cls_normalizer
        return {
            "loss_fcos_cls": loss_cls * self.cls_loss_weight,
            "loss_fcos_loc": loss_loc,
            quality_name: loss_quality / num_positive,
        }

    @torch.no_grad()
    def assign(self, locations: Locations, instances: Sequence[Instances]) -> Matches:
        """Which location learns which box of the batch."""
        matches = assign_boxes(
            locations,
            self.ranges,
            [x.gt_boxes.tensor for x in instances],
            center_radius=self.center_radius,
            plus_one_area=self.compat.one_pixel_boxes,
            exclusive_ranges=self.compat.exclusive_ranges,
        )
        # Where there is no GPU to wait for, pairs that do not count need not be masked.
        return matches.owned() if self.device.type == "cpu" else matches

    @torch.no_grad()
    def _box_targets(
        self, locations: Locations, instances: Sequence[Instances], matches: Matches
    ) -> Tensor:
        """(K, 4) ltrb targets in the head's unit; 1 where the location does not own the box."""
        boxes = torch.cat([x.gt_boxes.tensor for x in instances])[matches.box]
        targets = ltrb_distances(locations.points[matches.point], boxes)
        if self.head.norm_reg_targets:
            targets = targets / locations.strides[matches.point, None]
        return targets.where(matches.owns[:, None], 1.0)

    def _class_loss(
        self, logits: Sequence[Tensor], locations: Locations, matches: Matches, classes: Tensor
    ) -> Tensor:
        """Focal loss of all levels, not yet divided."""
        losses, start = [], 0
        pairs = (matches.image, matches.point, matches.owns, classes)
        by_level = zip(*(x.split(matches.level_sizes) for x in pairs))
        for level, size, (image, point, owns, label) in zip(
            logits, locations.level_sizes, by_level, strict=True
        ):
            place = torch.where(owns, image * size + point - start, -1)
            losses.append(
                sigmoid_focal_loss(level, place, label, self.focal_alpha, self.focal_gamma)
            )
            start += size
        return torch.stack(losses).sum()

    @contextlib.contextmanager
    def one_step(self, batched_inputs: list[dict]) -> Iterator[None]:
        """Within this, losses of parts of ``batched_inputs`` add up to those of all of it.

        Each part is padded to the common size, and its losses are divided by what those of the
        whole are divided by, which takes one more assignment of locations but no forward pass.
        """
        divisor = max(self.backbone.size_divisibility, 1)
        sizes = torch.tensor([x["image"].shape[-2:] for x in batched_inputs]).amax(dim=0)
        height, width = (-(-int(s) // divisor) * divisor for s in sizes)
        shapes = [(-(-height // s), -(-width // s)) for s in self.strides]
        divide = (height, width) if self.compat.grid_locations else None
        locations = make_locations(shapes, self.strides, self.device, divide=divide)
        with torch.no_grad():
            instances = self._ground_truth(batched_inputs)
            matches = self.assign(locations, instances)
            targets = self._box_targets(locations, instances, matches)
            count = len(instances) * len(locations.points)
            normalizers = self._normalizers(
                matches.owns, centerness_targets(targets) * matches.owns, count
            )
        self._step = _Step(*normalizers, (height, width))
        try:
            yield
        finally:
            self._step = None

    @contextlib.contextmanager
    def measuring(self) -> Iterator[None]:
        """Within this, losses can be had without training.

        The model gives losses but behaves as in inference, changes nothing in itself, and divides
        by counts of this process, so that processes may see different numbers of batches.
        """
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        self.training = True  # of the model itself only: that it returns losses
        self._is_alone = True
        try:
            yield
        finally:
            self._is_alone = False
            for module, mode in modes:
                module.training = mode

    def _normalizers(
        self, owns: Tensor, centerness: Tensor, num_locations: int
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """Number of positives, sum of their centerness, and what divides the class loss."""
        if self._step is not None:
            return self._step.num_positive, self._step.sum_centerness, self._step.cls_normalizer
        sums = torch.stack((owns.sum().float(), centerness.sum()))
        num_positive, sum_centerness = sums if self._is_alone else _mean_over_processes(sums)
        num_positive = num_positive.clamp(min=1)
        return num_positive, sum_centerness, self._cls_normalizer(num_positive, num_locations)

    @torch.no_grad()
    def inference(
        self,
        logits: Sequence[Tensor],
        distances: Sequence[Tensor],
        quality: Sequence[Tensor],
        locations: Locations,
        image_sizes: Sequence[tuple[int, int]],
        options: PostprocessOptions | None = None,
    ) -> list[Instances]:
        """Detections of each image in the network's pixels, from what :meth:`network` predicts."""
        if options is None:
            options = self.postprocess_train if self.training else self.postprocess
        pixels = _flatten(distances)
        if self.head.norm_reg_targets:
            pixels = pixels * locations.strides[:, None]
        centerness = _flatten(quality)[..., 0]
        return detect_images(
            logits, pixels, centerness, locations, image_sizes, options, self.compat
        )

    def _rescale(self, detections: Instances, inputs: dict) -> Instances:
        height = inputs.get("height", detections.image_size[0])
        width = inputs.get("width", detections.image_size[1])
        return rescale_detections(detections, height, width, self.compat)

    def _cls_normalizer(self, num_positive: Tensor, num_locations: int) -> Tensor | float:
        if self.cls_loss_normalizer == "moving_fg" and self._is_alone:
            return self.moving_num_fg
        if self.cls_loss_normalizer == "moving_fg":
            self.moving_num_fg.mul_(0.9).add_(num_positive, alpha=0.1)
            return self.moving_num_fg.clone()  # the next step changes it, backward may come later
        if self.cls_loss_normalizer == "all":
            count = num_positive.new_full((), float(num_locations))
            return count if self._is_alone else _mean_over_processes(count)
        return num_positive

    def _ground_truth(self, batched_inputs: list[dict]) -> list[Instances]:
        for x in batched_inputs:
            if "instances" not in x:
                raise KeyError(
                    "training needs 'instances' in every input, missing for "
                    f"{x.get('file_name', 'an image')}; call model.eval() for inference"
                )
            classes = x["instances"].gt_classes
            # As they come from a data loader: looking at them on a GPU would wait for it.
            if classes.device.type == "cpu" and (classes >= self.head.num_classes).any():
                raise ValueError(
                    f"{x.get('file_name', 'an image')} has class {int(classes.max())}, but "
                    f"MODEL.FCOS.NUM_CLASSES is {self.head.num_classes}, and classes count from 0"
                )
        given = [x["instances"] for x in batched_inputs]
        counts = [len(x) for x in given]
        boxes = to_device(torch.cat([x.gt_boxes.tensor for x in given]), self.device)
        classes = to_device(torch.cat([x.gt_classes for x in given]), self.device)
        return [
            Instances(x.image_size, gt_boxes=Boxes(b), gt_classes=c)
            for x, b, c in zip(given, boxes.split(counts), classes.split(counts), strict=True)
        ]

    def _visualize(self, batched_inputs, predictions, locations, image_sizes) -> None:
        if self.vis_period <= 0 or not has_event_storage():
            return
        storage = get_event_storage()
        if storage.iter % self.vis_period == 0:
            detections = self.inference(*predictions, locations, image_sizes)
            picture = training_picture(batched_inputs[0], detections[0], self.input_format)
            storage.put_image("Left: ground truth. Right: detections", picture)


def _without_unknown(
    logits: Sequence[Tensor], locations: Locations, matches: Matches, ignore: Sequence[Tensor]
) -> list[Tensor]:
    """Logits that cost nothing at background locations inside the boxes to ignore."""
    unknown = torch.stack([inside_any(locations.points, boxes) for boxes in ignore])
    unknown &= matches.dense(*unknown.shape) < 0
    masks = unknown.split(locations.level_sizes, dim=1)
    return [
        level.masked_fill(mask.view(-1, 1, *level.shape[2:]), _SURE_BACKGROUND)
        for level, mask in zip(logits, masks, strict=True)
    ]


def _flatten(maps: Sequence[Tensor]) -> Tensor:
    """L maps (N, K, H_l, W_l) -> (N, P, K)."""
    return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)


def _mean_over_processes(values: Tensor) -> Tensor:
    if comm.get_world_size() == 1:
        return values
    values = values.clone()
    torch.distributed.all_reduce(values)
    return values / comm.get_world_size()


def _postprocess_options(fcos, phase: str) -> PostprocessOptions:
    return PostprocessOptions(
        score_threshold=fcos[f"INFERENCE_TH_{phase}"],
        threshold_with_centerness=fcos.THRESH_WITH_CTR,
        topk_per_level=fcos[f"PRE_NMS_TOPK_{phase}"],
        nms_threshold=fcos.NMS_TH,
        max_detections=fcos[f"POST_NMS_TOPK_{phase}"],
        nms_type=fcos.NMS_TYPE,
        soft_nms_sigma=fcos.SOFT_NMS_SIGMA,
    )


def _check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"MODEL.FCOS.{key} is {value!r}, expected one of {', '.join(choices)}")
