from .box import BOX_LOSSES, centerness_targets, ltrb_iou_loss
from .focal import sigmoid_focal_loss

__all__ = ["BOX_LOSSES", "centerness_targets", "ltrb_iou_loss", "sigmoid_focal_loss"]
