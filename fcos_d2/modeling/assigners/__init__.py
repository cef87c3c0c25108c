"""Rules that decide which locations learn which boxes: one rule a file."""

from .assignment import Assigner, Assignment
from .center import CenterAssigner

__all__ = ["Assigner", "Assignment", "CenterAssigner"]
