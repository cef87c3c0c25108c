"""Images of any file format, mode and bit depth, read as upright 8-bit RGB."""

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = ["ImageInput", "read_rgb"]

ImageInput: TypeAlias = str | os.PathLike | bytes | np.ndarray | Image.Image | Tensor

_LARGEST_16_BIT = 65535
# Pillow converts premultiplied alpha to RGB only through the mode with plain alpha.
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


def read_rgb(image: ImageInput) -> np.ndarray:
    """Read or convert an image as training does: EXIF orientation applied, alpha dropped.

    16-bit values are scaled to 8 bits over their full range. Only the first frame of an animation
    and the first page of a document are read.

    Args:
        image: a path; an encoded file as bytes; an array (H, W, 3) BGR or (H, W) gray, uint8 or
            uint16; a PIL image; or a tensor (3, H, W) uint8 RGB.

    Returns:
        (H, W, 3) uint8, RGB, contiguous.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if the file is damaged or not an image, or an array or a tensor has another
            shape or dtype.
        TypeError: for an object of another type.
    """
    if isinstance(image, (str, os.PathLike)):
        return _decode(Path(image).read_bytes(), os.fspath(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(bytes(image), "the encoded image")
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    raise TypeError(
        f"a {type(image).__name__} is not an image; give a path, bytes, an array (H, W, 3) BGR or "
        "(H, W), a PIL image or a tensor (3, H, W) RGB"
    )


def _decode(data: bytes, name: str) -> np.ndarray:
    if not data:
        raise ValueError(f"{name} cannot be read: the file is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _from_pil(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read: not an image in a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} cannot be read: {error}. If you trust this file, raise "
            "PIL.Image.MAX_IMAGE_PIXELS, or cut the image into tiles"
        ) from error
    except Exception as error:  # decoders raise nearly any exception for damaged files
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} cannot be read: {reason}") from error


def _from_pil(image: Image.Image) -> np.ndarray:
    image.load()  # reading EXIF of a PNG loads the image too, but hides decoding errors
    image = _apply_exif_orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_to_rgb(_wide_to_8_bit(np.asarray(image)))
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    return _not_empty(np.array(image.convert("RGB")))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"an array of {array.dtype} is not an image: give uint8 (0 to 255) or uint16"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] != 3):
        raise ValueError(
            f"an array of shape {array.shape} is not an image: give (H, W, 3) in BGR or (H, W)"
        )
    if array.dtype == np.uint16:
        array = _wide_to_8_bit(array)
    return _gray_to_rgb(array) if array.ndim == 2 else _not_empty(array[..., ::-1])


def _from_tensor(tensor: Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or str(tensor.dtype) != "torch.uint8":
        raise ValueError(
            f"a tensor {tuple(tensor.shape)} of {tensor.dtype} is not an image: give (3, H, W) "
            "in RGB of torch.uint8, and several images as a list"
        )
    return _not_empty(tensor.detach().cpu().permute(1, 2, 0).numpy())


def _wide_to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale 0 to 65535 (integers) or 0 to 1 (floats) to 0 to 255."""
    _not_empty(values)
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if values.dtype.kind not in "iu" or low < 0 or high > _LARGEST_16_BIT:
        raise ValueError(
            f"the pixels are {values.dtype} from {low} to {high}, and the value of white is "
            "unknown; save the image with 8 or 16 bits"
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _gray_to_rgb(gray: np.ndarray) -> np.ndarray:
    return _not_empty(np.repeat(gray[..., None], 3, axis=2))


def _not_empty(array: np.ndarray) -> np.ndarray:
    if array.size == 0:
        raise ValueError(f"an image of {array.shape[1]} x {array.shape[0]} pixels is empty")
    return np.ascontiguousarray(array)
