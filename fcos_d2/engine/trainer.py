"""detectron2's default trainer with our mapper, evaluator, optimizers and checkpoints."""

import contextlib
import logging
import os
import sys
import weakref
from collections.abc import Sequence

import torch
from detectron2.data import build_detection_test_loader
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import DefaultTrainer, HookBase, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import DatasetEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm

from ..checkpoint.checkpointer import FCOSCheckpointer
from ..data.loader import TrainLoader, build_sampler, training_records
from ..data.mapper import FCOSDatasetMapper
from ..evaluation.coco import FCOSEvaluator
from ..modeling.fcos import FCOS
from ..modeling.speed import order_weights
from ..modeling.tta import FCOSWithTTA
from ..utils.device import autocast
from .ema import EMA
from .hooks import BestCheckpoint, StopTraining, ValidationLoss
from .train_loop import TrainStep
from .writers import DataTimeWarning, ProgressBar, WandbWriter

__all__ = ["WHOLE_MODEL", "FCOSTrainer", "build_validation_loader"]

logger = logging.getLogger(__name__)

# SOLVER.CLIP_GRADIENTS.CLIP_TYPE that detectron2 does not have.
WHOLE_MODEL = "full_model"


class FCOSTrainer(DefaultTrainer):
    """Trains FCOS from a config; see detectron2's ``DefaultTrainer``.

    Args:
        skip_test: skip every evaluation.
        records: records of the training data, if they are loaded already.
    """

    def __init__(self, cfg, skip_test: bool = False, records: Sequence[dict] | None = None):
        # DefaultTrainer.__init__ wraps the model for GPUs only and fixes the checkpointer, so the
        # same steps are repeated here.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.skip_test = skip_test
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        model = self.build_model(cfg)
        if isinstance(model, FCOS) and model.is_channels_last:
            order_weights(model)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg, seed=self.seed, records=records)
        device_ids = {} if torch.device(cfg.MODEL.DEVICE).type == "cuda" else {"device_ids": None}
        self.ema = EMA(model, cfg.SOLVER.EMA.DECAY) if cfg.SOLVER.EMA.ENABLED else None
        model = create_ddp_model(model, broadcast_buffers=False, **device_ids)
        clip = cfg.SOLVER.CLIP_GRADIENTS
        clips_whole = clip.ENABLED and clip.CLIP_TYPE == WHOLE_MODEL
        self._trainer = TrainStep(
            model,
            loader,
            optimizer,
            seed=self.seed,
            accumulate=cfg.SOLVER.ACCUMULATE,
            precision=cfg.SOLVER.AMP.DTYPE if cfg.SOLVER.AMP.ENABLED else "fp32",
            clip_norm=clip.CLIP_VALUE if clips_whole else 0.0,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        averages = {"ema": self.ema} if self.ema else {}
        self.checkpointer = FCOSCheckpointer(
            model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **averages
        )
        self.checkpointer.class_names = tuple(cfg.MODEL.FCOS.CLASS_NAMES)
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._last_eval_results = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last checkpoint, or start from MODEL.WEIGHTS."""
        self.checkpointer.remove_unfinished()
        names = self.checkpointer.class_names
        super().resume_or_load(resume)
        self.checkpointer.class_names = names
        if resume and self.checkpointer.has_checkpoint():
            last = self.checkpointer.get_checkpoint_file()
            logger.info("Resumed from %s, not from MODEL.WEIGHTS", last)
            if self.start_iter >= self.max_iter:
                logger.warning(
                    "Nothing is left to train: %s has finished iteration %d and SOLVER.MAX_ITER is "
                    "%d. Raise it to go on",
                    last,
                    self.start_iter,
                    self.max_iter,
                )
        if self.ema and self.ema.steps == 0:  # also after a run that had no averages
            self.ema.restart()
        # The next batches depend only on these two numbers.
        self._trainer.data_loader.start = self.start_iter
        self._trainer.data_loader.seed = self._trainer.seed = self.seed

    def state_dict(self) -> dict:
        return {**super().state_dict(), "seed": self.seed}

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self.seed = state_dict.get("seed", self.seed)

    def build_hooks(self) -> list:
        cfg, ema = self.cfg, self.ema
        default = super().build_hooks()
        if ema:
            default.insert(0, hooks.CallbackHook(after_step=lambda trainer: ema.update()))
        if self.skip_test:
            return [h for h in default if not isinstance(h, hooks.EvalHook)]
        # The average comes before its users, hooks that read an evaluation come after it, and both
        # before the writers, which detectron2 puts last.
        position = next(i for i, h in enumerate(default) if isinstance(h, hooks.EvalHook))
        after: list[HookBase] = []
        if cfg.TEST.VAL_LOSS and cfg.DATASETS.TEST:
            loader = build_validation_loader(cfg, cfg.DATASETS.TEST[0])
            after.append(ValidationLoss(cfg.TEST.EVAL_PERIOD, self._trainer.plain_model, loader))
        if cfg.TEST.EVAL_PERIOD > 0 and cfg.TEST.BEST_METRIC and cfg.DATASETS.TEST:
            test = cfg.TEST
            after.append(BestCheckpoint(test.EVAL_PERIOD, test.BEST_METRIC, test.EARLY_STOP))
        evaluation = hooks.EvalHook(cfg.TEST.EVAL_PERIOD, self._evaluate)
        default[position : position + 1] = [evaluation, *after]
        return default

    def _evaluate(self) -> dict | None:
        """Evaluate the current weights, or their average if SOLVER.EMA.ENABLED."""
        with self.ema.swapped() if self.ema else contextlib.nullcontext():
            self._last_eval_results = self.test(self.cfg, self.model)
        return self._last_eval_results

    def build_writers(self) -> list:
        """detectron2's, a progress bar on a terminal, and Weights & Biases if asked for."""
        writers = [*super().build_writers(), DataTimeWarning(self.start_iter)]
        if sys.stderr.isatty():
            writers.append(ProgressBar(self.max_iter, self.start_iter))
        if self.cfg.SOLVER.WANDB_PROJECT:
            writers.append(WandbWriter(self.cfg))
        return writers

    def train(self):
        """Train; return the results of the last evaluation, None without one."""
        try:
            super().train()
        except StopTraining:
            self.checkpointer.save("model_final", iteration=self.iter)
        return self._last_eval_results

    @classmethod
    def build_train_loader(cls, cfg, seed: int | None = None, records=None) -> TrainLoader:
        records = training_records(cfg) if records is None else records
        return TrainLoader(
            records,
            FCOSDatasetMapper(cfg, is_train=True),
            lambda seed: build_sampler(cfg, records, seed),
            batch_size=cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size(),
            seed=max(cfg.SEED, 0) if seed is None else seed,
            group_by_aspect=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            num_workers=cfg.DATALOADER.NUM_WORKERS,
            skip_broken=cfg.DATALOADER.SKIP_BROKEN,
        )

    @classmethod
    def test(cls, cfg, model, evaluators=None):
        """detectron2's, in TEST.PRECISION, with test-time augmentation if TEST.AUG.ENABLED."""
        if cfg.TEST.AUG.ENABLED:
            model = FCOSWithTTA(cfg, model)
        with autocast(cfg.TEST.PRECISION, torch.device(cfg.MODEL.DEVICE)):
            return super().test(cfg, model, evaluators)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        mapper = FCOSDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:  # else the last one's results would replace the others'
            folder = os.path.join(folder, dataset_name)
        return FCOSEvaluator(dataset_name, output_dir=folder)

    @classmethod
    def build_optimizer(cls, cfg, model: torch.nn.Module) -> torch.optim.Optimizer:
        """SGD or AdamW (SOLVER.OPTIMIZER) with detectron2's options for norms and biases.

        SOLVER.BACKBONE_MULTIPLIER scales the learning rate of the backbone below the FPN.
        """
        solver = cfg.SOLVER
        factor = solver.BACKBONE_MULTIPLIER
        parameters = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
            lr_factor_func=lambda name: factor if name.startswith("backbone.bottom_up.") else 1.0,
        )
        kind: type[torch.optim.Optimizer]
        options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
        if solver.FUSED:
            options["fused"] = True
        if solver.OPTIMIZER == "AdamW":
            kind = torch.optim.AdamW
        elif solver.OPTIMIZER == "SGD":
            kind = torch.optim.SGD
            options.update(momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
        else:
            raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}, expected SGD or AdamW")
        clip = solver.CLIP_GRADIENTS
        if clip.ENABLED and clip.CLIP_TYPE == WHOLE_MODEL:  # the step does it
            return kind(parameters, **options)
        return maybe_add_gradient_clipping(cfg, kind)(parameters, **options)


def build_validation_loader(cfg, dataset: str):
    """Loader of each image of a dataset once, resized as in inference, with ground truth."""
    mapper = FCOSDatasetMapper(cfg, is_train=True)
    mapper.augmentations = T.AugmentationList(build_augmentation(cfg, is_train=False))
    mapper.min_visible = 0.0
    return build_detection_test_loader(cfg, dataset, mapper=mapper)
