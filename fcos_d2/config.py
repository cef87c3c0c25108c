"""Every config key of FCOS, with its default and meaning, on top of detectron2's."""

import contextlib
import dataclasses
import os
from pathlib import Path

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg

from .modeling.compat import Compat
from .utils.files import nearest

__all__ = [
    "FCOSCfgNode",
    "add_fcos_config",
    "config_folder",
    "get_cfg",
    "get_config_file",
    "has_key",
    "list_configs",
]


def add_fcos_config(cfg: CN) -> None:
    """Add the keys of FCOS to a config of detectron2; a second call changes nothing."""
    _add_solver_and_input(cfg)
    _add_datasets(cfg)
    _add_timm(cfg)
    if "FCOS" in cfg.MODEL:
        return
    node = type(cfg)  # merging requires the same type for all nodes
    cfg.MODEL.FCOS = fcos = node()
    # Number of foreground classes, 80 for COCO; background does not count.
    fcos.NUM_CLASSES = 80
    # Names of the classes; training takes them from its data.
    fcos.CLASS_NAMES = []

    # Feature maps for the head, fine to coarse.
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Boundaries between neighboring levels in object size (largest ltrb distance, in pixels).
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]
    # Number of coarser levels that the FPN adds: 0, 1 (p6) or 2 (p6, p7).
    fcos.TOP_LEVELS = 2
    # Input of the added levels: "p5" or "res5".
    fcos.TOP_BLOCK_IN = "p5"
    # conv (one strided convolution per level) | maxpool (one level, every second value of p5).
    fcos.TOP_BLOCK = "conv"
    # ReLU after the convolutions of the FPN, an option of the official code.
    fcos.FPN_RELU = False
    # Registered name of the backbone below the FPN, for build_fcos_fpn_p3p7_backbone.
    fcos.BOTTOM_UP = "build_resnet_backbone"

    # Head: number of convolutions in the class tower, in the box tower, and shared by both.
    fcos.NUM_CLS_CONVS = 4
    fcos.NUM_BOX_CONVS = 4
    fcos.NUM_SHARE_CONVS = 0
    # Norm in the towers: GN | BN | SyncBN | "". Batch norms have separate statistics per level.
    fcos.NORM = "GN"
    # The last convolution of both towers is a deformable convolution v2.
    fcos.USE_DEFORMABLE = False
    # Learned factor per level for the distances.
    fcos.USE_SCALE = True
    # Class probability predicted by the untrained head.
    fcos.PRIOR_PROB = 0.01
    # Distance predicted by the untrained head, in strides. Published models use 0; short schedules
    # and small batches work better with 2, where no side starts in the dead zone of the ReLU.
    fcos.PRIOR_DISTANCE = 0.0
    # Centerness from the box tower (2020 paper) instead of the class tower (2019 paper).
    fcos.CENTERNESS_ON_REG = True
    # How the head represents a box: ltrb_relu (distances in strides and ReLU, 2020 paper) |
    # ltrb_exp (distances in pixels and exp, 2019 paper).
    fcos.BOX_REPRESENTATION = "ltrb_relu"
    # Deprecated: True means ltrb_relu, False ltrb_exp; None leaves it to BOX_REPRESENTATION.
    fcos.NORM_REG_TARGETS = None

    # Rule that decides which locations learn which boxes: fcos.
    fcos.ASSIGNER = "fcos"
    # Only locations within POS_RADIUS strides of the center of a box are positive.
    fcos.CENTER_SAMPLE = True
    fcos.POS_RADIUS = 1.5

    # Box loss: iou | linear_iou | giou.
    fcos.LOC_LOSS_TYPE = "giou"
    # Factor of the class scores: ctrness (also weights the box loss) | iou.
    fcos.BOX_QUALITY = "ctrness"
    # Class loss: focal (of LOSS_ALPHA and LOSS_GAMMA).
    fcos.CLS_LOSS = "focal"
    fcos.LOSS_ALPHA = 0.25
    fcos.LOSS_GAMMA = 2.0
    fcos.LOSS_WEIGHT_CLS = 1.0
    # Normalizer of the class loss: number of positives (fg), its moving average (moving_fg) or
    # number of locations (all).
    fcos.LOSS_NORMALIZER_CLS = "fg"

    # _TEST keys are for inference, _TRAIN keys for detections during training.
    # A candidate needs a class probability above this threshold ...
    fcos.INFERENCE_TH_TRAIN = 0.05
    fcos.INFERENCE_TH_TEST = 0.05
    # ... or, if True, a product of class probability and centerness above it (not its root).
    fcos.THRESH_WITH_CTR = False
    # Candidates per level before NMS, IoU threshold of NMS, detections per image after NMS.
    fcos.PRE_NMS_TOPK_TRAIN = 1000
    fcos.PRE_NMS_TOPK_TEST = 1000
    fcos.NMS_TH = 0.6
    # per_class | class_agnostic | soft_linear | soft_gaussian (with SOFT_NMS_SIGMA) | none.
    fcos.NMS_TYPE = "per_class"
    fcos.SOFT_NMS_SIGMA = 0.5
    fcos.POST_NMS_TOPK_TRAIN = 100
    fcos.POST_NMS_TOPK_TEST = 100

    # Speed of training and inference; results differ only by rounding.
    # Layout of images and features: channels_last | contiguous | auto (channels_last on a CPU).
    fcos.MEMORY_FORMAT = "auto"
    # Fold frozen norms of detectron2's backbones into their convolutions.
    fcos.FOLD_NORMS = True
    # torch.compile of backbone and head: default | reduce-overhead (CUDA graphs) | max-autotune.
    # Compilation takes minutes; it needs a C++ compiler on a CPU and Triton on a GPU.
    fcos.COMPILE = ""

    # Conventions of models that were trained with other code; fcos_d2.modeling.compat explains
    # them, and the converted configs set them.
    fcos.COMPAT = node()
    for field in dataclasses.fields(Compat):
        fcos.COMPAT[field.name.upper()] = field.default


def get_cfg() -> "FCOSCfgNode":
    """Default config of detectron2 with the keys of FCOS; unknown keys raise helpful errors."""
    cfg = FCOSCfgNode(get_detectron2_cfg())
    add_fcos_config(cfg)
    return cfg


class FCOSCfgNode(CN):
    """Config of detectron2 that names the nearest keys of an unknown key."""

    def merge_from_file(self, cfg_filename: str, allow_unsafe: bool = False) -> None:
        try:
            super().merge_from_file(cfg_filename, allow_unsafe=allow_unsafe)
        except KeyError as error:
            raise self._explain(error, f" in {cfg_filename}") from None

    def merge_from_list(self, cfg_list: list) -> None:
        try:
            super().merge_from_list(_whole_numbers_as_floats(self, cfg_list))
        except (KeyError, AssertionError) as error:
            keys = [str(key) for key in cfg_list[::2]]
            unknown = next((key for key in keys if not has_key(self, key)), None)
            if unknown is None:
                raise
            raise self._explain(KeyError(f"Non-existent config key: {unknown}"), "") from error

    def _explain(self, error: KeyError, where: str) -> KeyError:
        text = str(error.args[0])
        if "Non-existent config key: " not in text:
            return error
        key = text.rsplit(": ", 1)[1]
        hint = nearest(key, _all_keys(self), cutoff=0.6)
        return KeyError(f"no config key {key!r}{where}{hint}")


def _add_solver_and_input(cfg: CN) -> None:
    if "OPTIMIZER" not in cfg.SOLVER:
        # SGD (with detectron2's options) | AdamW
        cfg.SOLVER.OPTIMIZER = "SGD"
        # Fused kernels of torch (fused=True), for a GPU; not faster on a CPU.
        cfg.SOLVER.FUSED = False
        # Factor of the learning rate for the backbone below the FPN.
        cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
        # Number of epochs; above 0 it replaces MAX_ITER, and STEPS_EPOCHS replaces STEPS (without
        # STEPS_EPOCHS, STEPS keep their share of the training).
        cfg.SOLVER.MAX_EPOCHS = 0
        cfg.SOLVER.STEPS_EPOCHS = ()
        # Batch size that the schedule is written for: learning rate, iterations, periods and
        # warm-up are scaled to IMS_PER_BATCH. 0: no scaling.
        cfg.SOLVER.REFERENCE_BATCH = 0
        # Number of micro-batches per step; more of them need less memory.
        cfg.SOLVER.ACCUMULATE = 1
        # With SOLVER.AMP.ENABLED: float16 | bfloat16.
        cfg.SOLVER.AMP.DTYPE = "float16"
        # Moving average of the weights; evaluation uses the averaged weights.
        cfg.SOLVER.EMA = type(cfg)()
        cfg.SOLVER.EMA.ENABLED = False
        cfg.SOLVER.EMA.DECAY = 0.999
        # Log to this project of Weights & Biases too; needs `pip install wandb`.
        cfg.SOLVER.WANDB_PROJECT = ""
        # Use only deterministic algorithms; slower on a GPU.
        cfg.SOLVER.DETERMINISTIC = False
        # SOLVER.CLIP_GRADIENTS.CLIP_TYPE "full_model" clips the norm of all gradients together.
    if "BEST_METRIC" not in cfg.TEST:
        # Metric that selects model_best.pth; "": no best checkpoint. Needs TEST.EVAL_PERIOD.
        cfg.TEST.BEST_METRIC = "bbox/AP"
        # Stop training after this number of evaluations without improvement; 0: never.
        cfg.TEST.EARLY_STOP = 0
        # Precision of evaluations: fp32 | bf16 | fp16 (on a GPU).
        cfg.TEST.PRECISION = "fp32"
        # Compute the losses on the first test dataset, too.
        cfg.TEST.VAL_LOSS = False
        # Replace an unreadable image by another one, and log its name.
        cfg.DATALOADER.SKIP_BROKEN = False
    if "AUGS" not in cfg.INPUT:
        # Training augmentations as [name, {arguments}]; the names are classes of
        # detectron2.data.transforms or fcos_d2.data.augmentation. They replace the default resize,
        # crop and flip.
        cfg.INPUT.AUGS = []
        # Drop boxes if augmentation leaves at most this share of their area in the image.
        cfg.INPUT.MIN_VISIBLE = 0.0
        # Ignore background locations inside boxes that are annotated as crowds.
        cfg.INPUT.IGNORE_CROWDS = False


def _add_datasets(cfg: CN) -> None:
    if "CUSTOM" in cfg.DATASETS:
        return
    # Datasets to register, in the format of fcos_d2.data.datasets.custom.register_custom:
    # [{name: my_train, json: train.json, images: images/}, ...], or voc or yolo instead of json.
    cfg.DATASETS.CUSTOM = []


def _add_timm(cfg: CN) -> None:
    if "TIMM" in cfg.MODEL:
        return
    cfg.MODEL.TIMM = timm = type(cfg)()
    # Name of a timm model with features at strides 8, 16 and 32.
    timm.NAME = "tf_efficientnet_lite0"
    # Download ImageNet weights with timm; MODEL.WEIGHTS should then be empty.
    timm.PRETRAINED = False
    # "" keeps the trainable norms of the model; FrozenBN fixes their statistics and weights; SyncBN
    # computes the statistics over all processes.
    timm.NORM = "FrozenBN"
    # Channel attention in every block of a VoVNet, as in AdelaiDet.
    timm.ESE_IN_EVERY_BLOCK = False


def config_folder() -> Path:
    """Folder ``configs/`` inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs() -> list[str]:
    """Names for :func:`get_config_file`, relative to the configs folder, without base configs."""
    root = config_folder()
    paths = (path for path in root.rglob("*.yaml") if not path.name.startswith("Base-"))
    return sorted(path.relative_to(root).as_posix() for path in paths)


def get_config_file(name: str) -> str:
    """Absolute path of a config.

    Args:
        name: path of an existing file, or else a name from :func:`list_configs`, such as
            "fcos_R_50_FPN_1x.yaml" (a leading "configs/" is ignored).

    Raises:
        FileNotFoundError: if the config does not exist; names the nearest configs.
    """
    if os.path.isfile(name):
        return os.path.abspath(name)
    inside = config_folder() / name.removeprefix("configs/")
    if inside.is_file():
        return str(inside)
    known = list_configs()
    hint = nearest(name.removeprefix("configs/"), known) or f"; known: {', '.join(known)}"
    raise FileNotFoundError(f"no config file {name!r}, neither on disk nor in the package{hint}")


def _all_keys(cfg: CN, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CN):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys


def _whole_numbers_as_floats(cfg: CN, cfg_list: list) -> list:
    """Convert whole numbers in KEY VALUE pairs to floats where the config has a float."""
    words = list(cfg_list)
    for i in range(0, len(words) - 1, 2):
        key, value = str(words[i]), words[i + 1]
        if has_key(cfg, key) and isinstance(_get(cfg, key), float):
            with contextlib.suppress(ValueError):
                words[i + 1] = float(value) if not isinstance(value, bool) else value
    return words


def _get(cfg: CN, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def has_key(cfg: CN, key: str) -> bool:
    """Return True if a dotted key exists."""
    for part in key.split("."):
        if not isinstance(cfg, CN) or part not in cfg:
            return False
        cfg = cfg[part]
    return True
