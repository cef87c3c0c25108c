"""detectron2's dataset mapper, with augmentations from config and errors that name the file."""

import copy

from detectron2.data import DatasetMapper
from detectron2.data.detection_utils import SizeMismatchError

from .augmentation import build_augmentations

__all__ = ["FCOSDatasetMapper"]


class FCOSDatasetMapper(DatasetMapper):
    """Reads an image, augments it with its boxes; see detectron2's ``DatasetMapper``."""

    @classmethod
    def from_config(cls, cfg, is_train: bool = True):
        arguments = super().from_config(cfg, is_train)
        if is_train and cfg.INPUT.AUGS:
            arguments["augmentations"] = build_augmentations(cfg.INPUT.AUGS)
        return arguments

    def __call__(self, dataset_dict: dict) -> dict:
        """Raises FileNotFoundError or ValueError, naming the image and what to do."""
        name = dataset_dict.get("file_name", "?")
        try:
            return super().__call__(copy.deepcopy(dataset_dict))
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
