"""Detection of many files into a folder: ``fcos-d2 detect``, see ``docs/detect.md``."""

from .run import Summary, detect_files, run_detection

__all__ = ["Summary", "detect_files", "run_detection"]
