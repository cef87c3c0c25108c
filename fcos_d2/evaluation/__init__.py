"""COCO's AP, and training curves."""
