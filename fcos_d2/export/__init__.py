"""Export of trained models for other runtimes: ``fcos-d2 export``, see ``docs/export.md``."""

from .run import export_int8, export_model

__all__ = ["export_int8", "export_model"]
