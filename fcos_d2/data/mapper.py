"""Dataset mapper of detectron2 with augmentations from the config and errors that name the file."""

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

# Exceptions that Pillow, NumPy and detectron2 raise for malformed images and annotations.
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
    """Read an image and augment it with its boxes; see detectron2's ``DatasetMapper``.

    Args:
        is_train: add the ground truth to the result.
        min_visible: drop a box if augmentation leaves at most this share of its area inside the
            image; 0 keeps every remainder, as detectron2 does.
        ignore_crowds: add the boxes of crowds as ``ignore_boxes``, (K, 4) x1, y1, x2, y2 in
            pixels of the augmented image, instead of dropping them.
        **options: further options of ``DatasetMapper``.
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
        """Map one record of a dataset to one input of the model.

        Raises:
            FileNotFoundError: if the image does not exist.
            ValueError: if the image or its annotations are damaged, or their sizes differ.
        """
        name = dataset_dict.get("file_name", "?")
        try:
            return self._map(copy.deepcopy(dataset_dict))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"image {name} is in the annotations but not on disk: check the image folder "
                "given when the dataset was registered"
            ) from error
        except SizeMismatchError as error:
            raise ValueError(
                f"image {name} has another size than its annotations say ({error}). If its EXIF "
                "tag rotates the image, save it upright or swap width and height in the JSON"
            ) from error
        except (OSError, SyntaxError) as error:
            raise ValueError(f"image {name} cannot be read: {error}. Replace the file") from error
        except _DAMAGED as error:
            raise ValueError(
                f"image {name} or its annotations cannot be used: {error!r:.300}. "
                "`fcos-d2 check-data` lists the faults of a dataset"
            ) from error

    def _map(self, dataset_dict: dict) -> dict:
        """Follow the steps of detectron2, with a reader that refuses damaged files."""
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
