"""detectron2's dataset mapper, with augmentations from config and errors that name the file."""

import copy

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError, check_image_size
from detectron2.structures import BoxMode

from .augmentation import build_augmentations
from .images import read_rgb

__all__ = ["FCOSDatasetMapper"]

# What Pillow, NumPy and detectron2 raise for content that is not what it should be.
_DAMAGED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    IndexError,
    AssertionError,
    OverflowError,
    RuntimeError,
)


class FCOSDatasetMapper(DatasetMapper):
    """Reads an image, augments it with its boxes; see detectron2's ``DatasetMapper``.

    Args:
        is_train: whether ground truth is wanted.
        min_visible: a box of which augmentation leaves no more than this share of its area inside
            the image is no ground truth; 0 keeps every remainder, as detectron2 does.
        ignore_crowds: give the boxes of crowds as ``ignore_boxes``, (K, 4) in pixels of the
            augmented image, instead of forgetting them.
        **options: of ``DatasetMapper``.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        min_visible: float = 0.0,
        ignore_crowds: bool = False,
        **options,
    ):
        super().__init__(is_train, **options)
        self.min_visible = min_visible
        self.ignore_crowds = ignore_crowds

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        arguments = super().from_config(cfg, is_train)
        arguments["min_visible"] = cfg.INPUT.MIN_VISIBLE
        arguments["ignore_crowds"] = cfg.INPUT.IGNORE_CROWDS
        if is_train and cfg.INPUT.AUGS:
            arguments["augmentations"] = build_augmentations(cfg.INPUT.AUGS)
        return arguments

    def __call__(self, dataset_dict: dict) -> dict:
        """Raises FileNotFoundError or ValueError, naming the image and what to do."""
        name = dataset_dict.get("file_name", "?")
        try:
            return self._map(copy.deepcopy(dataset_dict))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"image {name} is in the annotations but not on disk: check the image folder "
                "given when the data set was registered"
            ) from error
        except SizeMismatchError as error:
            raise ValueError(
                f"image {name} has another size than its annotations say ({error}). If it was "
                "rotated by its EXIF tag, save it upright or swap width and height in the JSON"
            ) from error
        except (OSError, SyntaxError) as error:
            raise ValueError(f"image {name} cannot be read: {error}. Replace it") from error
        except _DAMAGED as error:
            raise ValueError(
                f"image {name} or its annotations cannot be used: {error!r:.300}. "
                "`fcos-d2 check-data` lists what is wrong with a data set"
            ) from error

    def _map(self, dataset_dict: dict) -> dict:
        """detectron2's steps, with a reader that takes no damaged file for a whole one."""
        rgb = read_rgb(dataset_dict["file_name"])
        image = rgb if self.image_format == "RGB" else rgb[:, :, ::-1]
        check_image_size(dataset_dict, image)
        augmented = T.AugInput(image)
        transforms = self.augmentations(augmented)
        image = augmented.image
        dataset_dict["image"] = torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))
        annotations = dataset_dict.pop("annotations", None)
        if self.is_train and annotations is not None:
            dataset_dict["annotations"] = annotations
            self._transform_annotations(dataset_dict, transforms, image.shape[:2])
        return dataset_dict

    def _transform_annotations(self, dataset_dict: dict, transforms, image_shape) -> None:
        if self.min_visible > 0:
            dataset_dict["annotations"] = [
                a
                for a in dataset_dict["annotations"]
                if _visible_share(a, transforms, image_shape) > self.min_visible
            ]
        crowds = [a for a in dataset_dict["annotations"] if a.get("iscrowd", 0)]
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        if self.ignore_crowds:
            dataset_dict["ignore_boxes"] = _transformed_boxes(crowds, transforms)


def _transformed_boxes(annotations: list[dict], transforms) -> torch.Tensor:
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations]
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    return torch.as_tensor(transforms.apply_box(array).astype(np.float32)).reshape(-1, 4)


def _visible_share(annotation: dict, transforms, image_shape: tuple[int, int]) -> float:
    """Share of a transformed box's area that lies inside the image of (height, width)."""
    box = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    x1, y1, x2, y2 = transforms.apply_box(np.array([box]))[0]
    height, width = image_shape
    inside = max(min(x2, width) - max(x1, 0), 0) * max(min(y2, height) - max(y1, 0), 0)
    return inside / max((x2 - x1) * (y2 - y1), 1e-9)
