"""Training augmentations from the config: those of detectron2, and transposition."""

from collections.abc import Sequence

import numpy as np
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform

from ..utils.files import nearest

__all__ = ["RandomTranspose", "TransposeTransform", "build_augmentations"]


class TransposeTransform(Transform):
    """Mirror an image at its main diagonal: rows become columns."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(img.swapaxes(0, 1))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords[:, ::-1]

    def inverse(self) -> Transform:
        return self


class RandomTranspose(T.Augmentation):
    """Transpose with probability ``prob``; with both flips, all eight orientations occur."""

    def __init__(self, prob: float = 0.5):
        super().__init__()
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return TransposeTransform() if self._rand_range() < self.prob else NoOpTransform()


def build_augmentations(entries: Sequence) -> list[T.Augmentation]:
    """Build the augmentations of INPUT.AUGS.

    Args:
        entries: one [name, {arguments}] per augmentation; the name is a class of
            detectron2.data.transforms or of this file.

    Raises:
        ValueError: for an unknown name, or arguments that the class does not accept; names the
            entry.
    """
    known = {
        name: item
        for name, item in {**vars(T), "RandomTranspose": RandomTranspose}.items()
        if isinstance(item, type) and issubclass(item, T.Augmentation)
    }
    return [_build(entry, known) for entry in entries]


def _build(entry: Sequence, known: dict) -> T.Augmentation:
    name, arguments = (entry, {}) if isinstance(entry, str) else (entry[0], dict(*entry[1:]))
    if name not in known:
        hint = nearest(name, known) or f"; known: {', '.join(sorted(known))}"
        raise ValueError(f"INPUT.AUGS: no augmentation {name!r}{hint}")
    try:
        return known[name](**arguments)
    except (TypeError, AssertionError) as error:
        raise ValueError(f"INPUT.AUGS: {name} does not take {arguments}: {error}") from error
