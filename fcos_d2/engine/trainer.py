"""detectron2's default trainer with our mapper, evaluator, optimizers and checkpoints."""

import logging
import os
import weakref

import torch
from detectron2.data import build_detection_test_loader, build_detection_train_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, create_ddp_model, hooks
from detectron2.engine.train_loop import TrainerBase
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm

from ..checkpoint import FCOSCheckpointer
from ..data.mapper import FCOSDatasetMapper

__all__ = ["FCOSTrainer"]

logger = logging.getLogger(__name__)


class FCOSTrainer(DefaultTrainer):
    """Trains FCOS from a config; see detectron2's ``DefaultTrainer``.

    Args:
        cfg: the config.
        skip_test: leave out every evaluation.
    """

    def __init__(self, cfg, skip_test: bool = False):
        # DefaultTrainer's own __init__ wraps the model for GPUs only and fixes the checkpointer,
        # so this one does the same steps anew.
        TrainerBase.__init__(self)
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        self.skip_test = skip_test
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        loader = self.build_train_loader(cfg)
        device_ids = {} if torch.device(cfg.MODEL.DEVICE).type == "cuda" else {"device_ids": None}
        model = create_ddp_model(model, broadcast_buffers=False, **device_ids)
        step = AMPTrainer if cfg.SOLVER.AMP.ENABLED else SimpleTrainer
        self._trainer = step(model, loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = FCOSCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._last_eval_results = None
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """Continue from OUTPUT_DIR's last checkpoint, or start from MODEL.WEIGHTS."""
        super().resume_or_load(resume)
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

    def build_hooks(self) -> list:
        all_hooks = super().build_hooks()
        if self.skip_test:
            all_hooks = [h for h in all_hooks if not isinstance(h, hooks.EvalHook)]
        return all_hooks

    def train(self):
        """Train; returns the results of the last evaluation, None without one."""
        super().train()
        return self._last_eval_results

    @classmethod
    def build_train_loader(cls, cfg):
        return build_detection_train_loader(cfg, mapper=FCOSDatasetMapper(cfg, is_train=True))

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        mapper = FCOSDatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str) -> DatasetEvaluator:
        folder = os.path.join(cfg.OUTPUT_DIR, "inference")
        if len(cfg.DATASETS.TEST) > 1:  # else the last one's results would replace the others'
            folder = os.path.join(folder, dataset_name)
        return COCOEvaluator(dataset_name, output_dir=folder)

    @classmethod
    def build_optimizer(cls, cfg, model: torch.nn.Module) -> torch.optim.Optimizer:
        """SGD or AdamW (SOLVER.OPTIMIZER) with detectron2's options for norms and biases.

        SOLVER.BACKBONE_MULTIPLIER scales the learning rate of what lies below the FPN.
        """
        solver = cfg.SOLVER

        def lr_factor(name: str) -> float:
            return solver.BACKBONE_MULTIPLIER if name.startswith("backbone.bottom_up.") else 1.0

        parameters = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
            lr_factor_func=lr_factor,
        )
        options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
        if solver.OPTIMIZER == "AdamW":
            kind = torch.optim.AdamW
        elif solver.OPTIMIZER == "SGD":
            kind = torch.optim.SGD
            options.update(momentum=solver.MOMENTUM, nesterov=solver.NESTEROV)
        else:
            raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}, expected SGD or AdamW")
        return maybe_add_gradient_clipping(cfg, kind)(parameters, **options)
