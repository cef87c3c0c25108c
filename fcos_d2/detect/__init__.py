"""Detection in many files, with results in a folder: ``fcos-d2 detect``, see ``docs/detect.md``."""

from .options import DetectOptions
from .run import Summary, detect_files, run_detection

__all__ = ["DetectOptions", "Summary", "detect_files", "run_detection"]
