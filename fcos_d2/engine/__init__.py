"""Training and evaluation on detectron2's trainer."""
