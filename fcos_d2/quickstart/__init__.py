"""The quick start: a small dataset, pretrained weights, and a training on a CPU."""

from .run import QuickStartResult, run_quickstart

__all__ = ["QuickStartResult", "run_quickstart"]
