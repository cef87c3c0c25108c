"""Schedules in epochs, and learning rates that scale with the batch size."""

import logging
import math

__all__ = ["REFERENCE", "advise_learning_rate", "apply_epochs", "scale_to_batch"]

logger = logging.getLogger(__name__)

# Batch and learning rate of the published SGD schedules.
REFERENCE = (16, 0.01)


def apply_epochs(cfg, num_images: int) -> None:
    """Turn SOLVER.MAX_EPOCHS and STEPS_EPOCHS into MAX_ITER and STEPS, in place.

    Args:
        cfg: config that is not frozen; without MAX_EPOCHS nothing changes.
        num_images: number of images of an epoch.

    Raises:
        ValueError: if a step lies after the end.
    """
    solver = cfg.SOLVER
    if solver.MAX_EPOCHS <= 0:
        if solver.STEPS_EPOCHS:
            raise ValueError("SOLVER.STEPS_EPOCHS needs SOLVER.MAX_EPOCHS")
        return
    if any(step >= solver.MAX_EPOCHS for step in solver.STEPS_EPOCHS):
        raise ValueError(
            f"SOLVER.STEPS_EPOCHS {tuple(solver.STEPS_EPOCHS)} must lie before "
            f"SOLVER.MAX_EPOCHS {solver.MAX_EPOCHS}"
        )
    per_epoch = num_images / solver.IMS_PER_BATCH
    published = solver.MAX_ITER, solver.STEPS
    solver.MAX_ITER = max(1, math.ceil(per_epoch * solver.MAX_EPOCHS))
    if solver.STEPS_EPOCHS:
        solver.STEPS = tuple(math.ceil(per_epoch * step) for step in solver.STEPS_EPOCHS)
    else:  # at the same share of the training as in the config
        solver.STEPS = tuple(round(s / published[0] * solver.MAX_ITER) for s in published[1])
    logger.info(
        "%g epochs of %d images in batches of %d = %d iterations, steps at %s",
        solver.MAX_EPOCHS,
        num_images,
        solver.IMS_PER_BATCH,
        solver.MAX_ITER,
        solver.STEPS,
    )


def scale_to_batch(cfg) -> None:
    """Scale a schedule from SOLVER.REFERENCE_BATCH to the batch, in place (arXiv 1706.02677).

    The learning rate grows with the batch and the number of iterations shrinks, so that the same
    number of images is seen. 0 changes nothing. SOLVER.MAX_EPOCHS, if set, decides the iterations.
    """
    solver = cfg.SOLVER
    if solver.REFERENCE_BATCH <= 0 or solver.REFERENCE_BATCH == solver.IMS_PER_BATCH:
        return
    factor = solver.IMS_PER_BATCH / solver.REFERENCE_BATCH
    before = solver.BASE_LR, solver.MAX_ITER
    solver.BASE_LR *= factor
    solver.WARMUP_ITERS = round(solver.WARMUP_ITERS / factor)
    solver.CHECKPOINT_PERIOD = max(1, round(solver.CHECKPOINT_PERIOD / factor))
    cfg.TEST.EVAL_PERIOD = math.ceil(cfg.TEST.EVAL_PERIOD / factor)
    if solver.MAX_EPOCHS <= 0:
        solver.MAX_ITER = round(solver.MAX_ITER / factor)
        solver.STEPS = tuple(round(step / factor) for step in solver.STEPS)
    solver.REFERENCE_BATCH = solver.IMS_PER_BATCH  # a resumed run must not scale again
    logger.info(
        "Scaled to a batch of %d: learning rate %g -> %g, iterations %d -> %d, steps %s",
        solver.IMS_PER_BATCH,
        before[0],
        solver.BASE_LR,
        before[1],
        solver.MAX_ITER,
        solver.STEPS,
    )


def advise_learning_rate(cfg) -> str:
    """Advice of the linear rule for SGD at this batch size; "" for other optimizers."""
    solver = cfg.SOLVER
    if solver.OPTIMIZER != "SGD":
        return ""
    suggested = REFERENCE[1] * solver.IMS_PER_BATCH / REFERENCE[0]
    text = f"{suggested:g} is usual with SGD for a batch of {solver.IMS_PER_BATCH}"
    far = max(solver.BASE_LR / suggested, suggested / solver.BASE_LR) > 2
    return text + (" (more than twice off: expect divergence or slow learning)" if far else "")
