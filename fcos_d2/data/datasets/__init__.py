"""Readers of COCO, Pascal VOC and YOLO, and datasets that are known by name."""
