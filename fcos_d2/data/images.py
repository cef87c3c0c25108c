"""Any image as upright 8-bit RGB."""

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation
from PIL import Image, UnidentifiedImageError
from torch import Tensor

__all__ = [
    "ImageInput",
    "read_rgb",
]

ImageInput: TypeAlias = str | os.PathLike | bytes | np.ndarray | Image.Image | Tensor

_LARGEST_16_BIT = 65535
# Pillow converts these to RGB only by way of their twins without premultiplied alpha.
_PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


def read_rgb(picture: ImageInput) -> np.ndarray:
    """Read or convert a picture, as training does: upright by EXIF, colours without their alpha.

    16-bit values are scaled to 8 bits over their full range. Of an animation or a document with
    pages, the first is taken.

    Args:
        picture: a path; an encoded file as bytes; an array (H, W, 3) BGR or (H, W) gray, uint8 or
            uint16; a PIL image; or a tensor (3, H, W) uint8 RGB.

    Returns:
        (H, W, 3) uint8, RGB, contiguous.

    Raises:
        OSError: if the file cannot be opened.
        ValueError: if it is no picture, damaged, or of a shape or type that is none of these.
        TypeError: for anything else.
    """
    if isinstance(picture, (str, os.PathLike)):
        return _decode(Path(picture).read_bytes(), os.fspath(picture))
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return _decode(bytes(picture), "the encoded picture")
    if isinstance(picture, Image.Image):
        return _from_pil(picture)
    if isinstance(picture, np.ndarray):
        return _from_array(picture)
    if isinstance(picture, Tensor):
        return _from_tensor(picture)
    raise TypeError(
        f"a {type(picture).__name__} is no picture; give a path, bytes, an array (H, W, 3) BGR or "
        "(H, W), a PIL image or a tensor (3, H, W) RGB"
    )


def _decode(data: bytes, name: str) -> np.ndarray:
    if not data:
        raise ValueError(f"{name} cannot be read: it is empty")
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _from_pil(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} cannot be read: it is no picture in a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{name} cannot be read: {error}. If you trust it, raise PIL.Image.MAX_IMAGE_PIXELS, "
            "or cut it into tiles"
        ) from error
    except Exception as error:  # damaged files make decoders raise nearly anything
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} cannot be read: {reason}") from error


def _from_pil(image: Image.Image) -> np.ndarray:
    image.load()  # else reading a PNG's EXIF does, and what that raises would be lost
    image = _apply_exif_orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _gray_to_rgb(_wide_to_8_bit(np.asarray(image)))
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    return _not_empty(np.array(image.convert("RGB")))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f"an array of {array.dtype} is no picture: give uint8 (0 to 255) or uint16"
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] != 3):
        raise ValueError(
            f"an array of shape {array.shape} is no picture: give (H, W, 3) in BGR or (H, W)"
        )
    if array.dtype == np.uint16:
        array = _wide_to_8_bit(array)
    return _gray_to_rgb(array) if array.ndim == 2 else _not_empty(array[..., ::-1])


def _from_tensor(tensor: Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or str(tensor.dtype) != "torch.uint8":
        raise ValueError(
            f"a tensor {tuple(tensor.shape)} of {tensor.dtype} is no picture: give (3, H, W) in "
            "RGB of torch.uint8, and several as a list"
        )
    return _not_empty(tensor.detach().cpu().permute(1, 2, 0).numpy())


def _wide_to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale the full range of 16 bits, or 0 to 1 of floats, to 0 to 255."""
    _not_empty(values)
    low, high = values.min(), values.max()
    if values.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.rint(values * 255).astype(np.uint8)
    if values.dtype.kind not in "iu" or low < 0 or high > _LARGEST_16_BIT:
        raise ValueError(
            f"its values are {values.dtype} from {low} to {high}, whose white is unknown; save it "
            "with 8 or 16 bits"
        )
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _gray_to_rgb(gray: np.ndarray) -> np.ndarray:
    return _not_empty(np.repeat(gray[..., None], 3, axis=2))


def _not_empty(array: np.ndarray) -> np.ndarray:
    if array.size == 0:
        raise ValueError(f"a picture of {array.shape[1]} x {array.shape[0]} pixels has no content")
    return np.ascontiguousarray(array)
