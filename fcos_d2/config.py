"""Every config key of FCOS, with its default and meaning, on top of detectron2's."""

import contextlib
import dataclasses
import difflib
import os
from pathlib import Path

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg as get_detectron2_cfg

from .modeling.compat import Compat

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
    """Add the keys of FCOS to detectron2's config; a second call changes nothing."""
    _add_solver_and_input(cfg)
    _add_datasets(cfg)
    _add_timm(cfg)
    if "FCOS" in cfg.MODEL:
        return
    node = type(cfg)  # merging wants one type of node everywhere
    cfg.MODEL.FCOS = fcos = node()
    # Foreground classes only: 80 for COCO. Background is no class.
    fcos.NUM_CLASSES = 80
    # Their names; training fills them in from its data.
    fcos.CLASS_NAMES = []

    # Feature maps the head sees, fine to coarse.
    fcos.IN_FEATURES = ["p3", "p4", "p5", "p6", "p7"]
    # Object sizes (largest ltrb distance, pixels) at which one level hands over to the next.
    fcos.SIZES_OF_INTEREST = [64, 128, 256, 512]
    # Levels that the FPN adds below the backbone's coarsest one: 0, 1 (p6) or 2 (p6, p7) ...
    fcos.TOP_LEVELS = 2
    # ... and what they are computed from: "p5" or "res5".
    fcos.TOP_BLOCK_IN = "p5"
    # conv (a strided one for each level) | maxpool (one level, every second value of p5).
    fcos.TOP_BLOCK = "conv"
    # ReLU behind the FPN's convolutions, as the official code can have it.
    fcos.FPN_RELU = False
    # For build_fcos_fpn_p3p7_backbone: registered name of the backbone below the FPN.
    fcos.BOTTOM_UP = "build_resnet_backbone"

    # Head: convolutions of the class tower, the box tower, and before both.
    fcos.NUM_CLS_CONVS = 4
    fcos.NUM_BOX_CONVS = 4
    fcos.NUM_SHARE_CONVS = 0
    # GN | BN | SyncBN | "" in the towers; the batch norms keep one set of statistics per level.
    fcos.NORM = "GN"
    # Deformable convolution v2 as the last one of both towers.
    fcos.USE_DEFORMABLE = False
    # A learned factor per level for the distances.
    fcos.USE_SCALE = True
    # Class probability that the untrained head predicts.
    fcos.PRIOR_PROB = 0.01
    # Distance, in strides, that the untrained head predicts. 0 is what was published; short
    # schedules and small batches do better from 2, where no side dies in its ReLU.
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
    # Learn only from locations within POS_RADIUS strides of a box's center.
    fcos.CENTER_SAMPLE = True
    fcos.POS_RADIUS = 1.5

    # Box loss: iou | linear_iou | giou.
    fcos.LOC_LOSS_TYPE = "giou"
    # What multiplies class scores: ctrness (also weighs the box loss) | iou.
    fcos.BOX_QUALITY = "ctrness"
    # Class loss: focal (of LOSS_ALPHA and LOSS_GAMMA).
    fcos.CLS_LOSS = "focal"
    fcos.LOSS_ALPHA = 0.25
    fcos.LOSS_GAMMA = 2.0
    fcos.LOSS_WEIGHT_CLS = 1.0
    # What divides it: fg (positives) | moving_fg (their moving average) | all (locations).
    fcos.LOSS_NORMALIZER_CLS = "fg"

    # Inference (_TEST) and detections drawn or used while training (_TRAIN).
    # A candidate's class probability must exceed this ...
    fcos.INFERENCE_TH_TRAIN = 0.05
    fcos.INFERENCE_TH_TEST = 0.05
    # ... or, with this switch, its class x centerness probability (not the root of it).
    fcos.THRESH_WITH_CTR = False
    # Candidates of each level before NMS, IoU threshold of NMS, detections after it.
    fcos.PRE_NMS_TOPK_TRAIN = 1000
    fcos.PRE_NMS_TOPK_TEST = 1000
    fcos.NMS_TH = 0.6
    # per_class | class_agnostic | soft_linear | soft_gaussian (of SOFT_NMS_SIGMA) | none.
    fcos.NMS_TYPE = "per_class"
    fcos.SOFT_NMS_SIGMA = 0.5
    fcos.POST_NMS_TOPK_TRAIN = 100
    fcos.POST_NMS_TOPK_TEST = 100

    # Speed, in training and inference; results differ by rounding.
    # Layout of images and features: channels_last | contiguous | auto (the first on a CPU).
    fcos.MEMORY_FORMAT = "auto"
    # Compute frozen norms of detectron2's backbones as part of their convolutions.
    fcos.FOLD_NORMS = True
    # torch.compile of backbone and head: default | reduce-overhead (CUDA graphs) | max-autotune.
    # It takes minutes at the start, a C++ compiler on a CPU and Triton on a GPU.
    fcos.COMPILE = ""

    # Conventions that only matter to run a model trained elsewhere; fcos_d2.modeling.compat
    # explains each, and the converted configs set them.
    fcos.COMPAT = node()
    for field in dataclasses.fields(Compat):
        fcos.COMPAT[field.name.upper()] = field.default


def get_cfg() -> "FCOSCfgNode":
    """detectron2's default config with the keys of FCOS, and errors that help."""
    cfg = FCOSCfgNode(get_detectron2_cfg())
    add_fcos_config(cfg)
    return cfg


class FCOSCfgNode(CN):
    """A detectron2 config that names the nearest key when one does not exist."""

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
        near = difflib.get_close_matches(key, _all_keys(self), n=3, cutoff=0.6)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        return KeyError(f"no config key {key!r}{where}{hint}")


def _add_solver_and_input(cfg: CN) -> None:
    if "OPTIMIZER" not in cfg.SOLVER:
        # SGD (with detectron2's options) | AdamW
        cfg.SOLVER.OPTIMIZER = "SGD"
        # One kernel for all its work (torch's fused=True); for a GPU, on a CPU it is no faster.
        cfg.SOLVER.FUSED = False
        # Learning rate of the backbone below the FPN, relative to that of everything else.
        cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
        # Epochs; above 0 they replace MAX_ITER, and STEPS_EPOCHS replaces STEPS (which otherwise
        # stay at the same share of the training).
        cfg.SOLVER.MAX_EPOCHS = 0
        cfg.SOLVER.STEPS_EPOCHS = ()
        # Batch that learning rate and iterations are written for: both are scaled to
        # IMS_PER_BATCH, and so are periods and warm-up. 0 takes them as they are.
        cfg.SOLVER.REFERENCE_BATCH = 0
        # Parts of a batch that go through the model one after another, to need less memory.
        cfg.SOLVER.ACCUMULATE = 1
        # With SOLVER.AMP.ENABLED: float16 | bfloat16.
        cfg.SOLVER.AMP.DTYPE = "float16"
        # Averaged weights, which evaluation then uses.
        cfg.SOLVER.EMA = type(cfg)()
        cfg.SOLVER.EMA.ENABLED = False
        cfg.SOLVER.EMA.DECAY = 0.999
        # Log to this project of Weights & Biases too; needs `pip install wandb`.
        cfg.SOLVER.WANDB_PROJECT = ""
        # Only algorithms that give the same numbers each time; slower on a GPU.
        cfg.SOLVER.DETERMINISTIC = False
        # SOLVER.CLIP_GRADIENTS.CLIP_TYPE "full_model" clips the norm of all gradients together.
    if "BEST_METRIC" not in cfg.TEST:
        # Its best checkpoint is kept as model_best.pth; "" keeps none. Needs TEST.EVAL_PERIOD.
        cfg.TEST.BEST_METRIC = "bbox/AP"
        # Evaluations without a better one after which training ends; 0 never.
        cfg.TEST.EARLY_STOP = 0
        # Precision of evaluations: fp32 | bf16 | fp16 (on a GPU).
        cfg.TEST.PRECISION = "fp32"
        # Also compute the losses on the first test set.
        cfg.TEST.VAL_LOSS = False
        # Go on with another image where one cannot be read, and log its name.
        cfg.DATALOADER.SKIP_BROKEN = False
    if "AUGS" not in cfg.INPUT:
        # Training augmentations as [name, {arguments}] of detectron2.data.transforms or of
        # fcos_d2.data.augmentation; replaces the default resize, crop and flip if not empty.
        cfg.INPUT.AUGS = []
        # Boxes of which augmentation cuts off all but this share are no ground truth.
        cfg.INPUT.MIN_VISIBLE = 0.0
        # Teach nothing about the background inside boxes that are annotated as crowds.
        cfg.INPUT.IGNORE_CROWDS = False


def _add_datasets(cfg: CN) -> None:
    if "CUSTOM" in cfg.DATASETS:
        return
    # Data sets to register by name, as fcos_d2.data.custom.register_custom takes them:
    # [{name: my_train, json: train.json, images: images/}, ...], or voc or yolo instead of json.
    cfg.DATASETS.CUSTOM = []


def _add_timm(cfg: CN) -> None:
    if "TIMM" in cfg.MODEL:
        return
    cfg.MODEL.TIMM = timm = type(cfg)()
    # A model of timm with features at strides 8, 16 and 32.
    timm.NAME = "tf_efficientnet_lite0"
    # Let timm download its ImageNet weights (then leave MODEL.WEIGHTS empty).
    timm.PRETRAINED = False
    # "" keeps the model's own trainable norms; FrozenBN fixes their statistics and weights; SyncBN
    # computes their statistics over all processes.
    timm.NORM = "FrozenBN"
    # VoVNets as AdelaiDet has them, with channel attention in every block.
    timm.ESE_IN_EVERY_BLOCK = False


def config_folder() -> Path:
    """``configs/`` inside an installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_configs() -> list[str]:
    """Names that :func:`get_config_file` takes, relative to the configs folder, without bases."""
    root = config_folder()
    paths = (path for path in root.rglob("*.yaml") if not path.name.startswith("Base-"))
    return sorted(path.relative_to(root).as_posix() for path in paths)


def get_config_file(name: str) -> str:
    """Path of a config, from any working folder.

    Args:
        name: a name of :func:`list_configs`, such as "fcos_R_50_FPN_1x.yaml" (a leading
            "configs/" is ignored), or the path of an existing file, which wins.

    Raises:
        FileNotFoundError: naming the nearest known config.
    """
    if os.path.isfile(name):
        return os.path.abspath(name)
    inside = config_folder() / name.removeprefix("configs/")
    if inside.is_file():
        return str(inside)
    known = list_configs()
    near = difflib.get_close_matches(name.removeprefix("configs/"), known, n=3)
    raise FileNotFoundError(
        f"no config file {name!r}, neither on disk nor in the package; "
        f"{'nearest: ' + ', '.join(near) if near else 'known: ' + ', '.join(known)}"
    )


def _all_keys(cfg: CN, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CN):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys


def _whole_numbers_as_floats(cfg: CN, cfg_list: list) -> list:
    """KEY VALUE pairs in which 1 may stand for 1.0."""
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
    """Whether a dotted key exists."""
    for part in key.split("."):
        if not isinstance(cfg, CN) or part not in cfg:
            return False
        cfg = cfg[part]
    return True
