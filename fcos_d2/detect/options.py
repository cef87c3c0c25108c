"""Options of a detection run."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["FORMATS", "DetectOptions"]

# Files that can be written beside the JSON lines.
FORMATS = ("json", "csv")
# Accepted without effect: the JSON lines are always written.
_ALWAYS_WRITTEN = "jsonl"


@dataclass(frozen=True)
class DetectOptions:
    """Options of ``fcos-d2 detect``, apart from its inputs, model and output folder.

    Attributes:
        weights: path or address of the weights; None takes the model's own.
        device: "cpu", "cuda", "cuda:1"; None chooses CUDA if it is available, else the CPU.
        precision: see :class:`~fcos_d2.inference.predictor.Predictor`.
        compile_mode: see ``Predictor.from_pretrained``.
        tile: side in pixels of the tiles that larger images are cut into; None never cuts.
        overlap: share of a tile that its neighbor repeats.
        threshold: lowest score of a detection.
        classes: names of the wanted classes; None keeps all.
        batch_size: images per batch; None takes 1 on a CPU and 8 on a GPU.
        formats: names from ``FORMATS``.
        draw: save drawn images and videos.
        recursive: also look into folders below the given ones.
        max_frames: number of frames read from a camera; None reads until Ctrl-C.

    Raises:
        ValueError: for an unknown format, or a number outside its range.
    """

    weights: str | None = None
    device: str | None = None
    precision: str = "fp32"
    compile_mode: str = ""
    tile: int | None = None
    overlap: float = 0.2
    threshold: float = 0.3
    classes: Sequence[str] | None = None
    batch_size: int | None = None
    formats: Sequence[str] = ("json",)
    draw: bool = True
    recursive: bool = False
    max_frames: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.formats if name not in (*FORMATS, _ALWAYS_WRITTEN)]
        if unknown:
            raise ValueError(
                f"unknown format {unknown[0]!r}, expected some of {', '.join(FORMATS)}"
            )
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"the threshold must be from 0 to 1, got {self.threshold}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, got {self.batch_size}")
