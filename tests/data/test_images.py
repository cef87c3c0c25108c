import io
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from fcos_d2.data.images import read_rgb
from fcos_d2.detect.video import read_frames

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def encoded(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def test_a_path_its_bytes_and_a_pil_image_give_equal_pixels(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for image in (
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        Image.fromarray(RGB),
    ):
        assert np.array_equal(read_rgb(image), RGB)


def test_arrays_are_bgr_and_tensors_rgb():
    assert np.array_equal(read_rgb(RGB[..., ::-1]), RGB)
    assert np.array_equal(read_rgb(torch.from_numpy(RGB).permute(2, 0, 1)), RGB)


def test_gray_repeats_in_three_channels():
    gray = RGB[..., 0]
    expected = np.stack([gray] * 3, axis=2)
    for image in (gray, gray[..., None], Image.fromarray(gray), encoded(Image.fromarray(gray))):
        assert np.array_equal(read_rgb(image), expected)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_over_their_full_range_and_not_clipped(file_format):
    gray = np.array([[0, 257, 255, 32896, 65535]], dtype=np.uint16)
    expected = [0, 1, 1, 128, 255]
    assert read_rgb(encoded(Image.fromarray(gray), file_format))[0, :, 1].tolist() == expected
    assert read_rgb(gray)[0, :, 1].tolist() == expected


def test_floats_from_0_to_1_are_scaled_and_others_refused():
    floats = np.array([[0, 0.5, 1]], dtype=np.float32)
    assert read_rgb(encoded(Image.fromarray(floats), "TIFF"))[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match=r"float32 from 0\.0 to 300\.0.*8 or 16 bits"):
        read_rgb(Image.fromarray(floats * 300))


def test_palette_alpha_and_cmyk_become_their_rgb_colors():
    red = np.full((4, 4, 3), (255, 0, 0), dtype=np.uint8)
    image = Image.fromarray(red)
    for other in (image.quantize(4), image.convert("RGBA"), image.convert("CMYK")):
        assert other.mode != "RGB"
        assert np.array_equal(read_rgb(other), red)
    cmyk = read_rgb(encoded(image.convert("CMYK"), "JPEG", quality=100)).astype(int)
    assert np.abs(cmyk - red).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_ends_upright(orientation):
    stored_from_upright = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(stored_from_upright(RGB)))
    assert np.array_equal(read_rgb(encoded(stored, exif=exif)), RGB)


def test_damaged_files_are_named_with_the_reason(tmp_path):
    noise = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    cut = encoded(noise, "JPEG")[:-900]
    broken_png = bytearray(encoded(noise))
    broken_png[41:60] = bytes(19)  # where the compressed pixels start
    for name, content, reason in (
        ("cut.jpg", cut, "truncated"),
        ("text.jpg", b"not an image", "not an image in a known format"),
        ("empty.png", b"", "empty"),
        ("broken.png", bytes(broken_png), ": ."),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} cannot be read.*{reason}"):
            read_rgb(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_rgb(tmp_path / "missing.png")


def test_a_header_with_a_huge_size_is_refused_with_advice():
    header = bytearray(encoded(Image.new("L", (1, 1))))
    header[16:24] = struct.pack(">II", 60000, 60000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(ValueError, match="MAX_IMAGE_PIXELS"):
        read_rgb(bytes(header))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"\(4, 4, 4\).*\(H, W, 3\)"),
        (np.zeros((4, 4, 3), np.float32), "float32.*uint8"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
        (np.zeros((0, 4), np.uint16), "4 x 0 pixels"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "as a list"),
        (torch.zeros(3, 4, 4), "torch.float32.*torch.uint8"),
    ],
)
def test_arrays_and_tensors_of_other_shapes_or_types_are_refused(image, text):
    with pytest.raises(ValueError, match=text):
        read_rgb(image)


def test_objects_of_other_types_are_a_type_error():
    with pytest.raises(TypeError, match="a dict is not an image"):
        read_rgb({})


def test_frames_of_a_video_come_in_bgr(tmp_path):
    cv2 = pytest.importorskip("cv2")
    path = str(tmp_path / "a.avi")
    video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (32, 16))
    for value in (50, 100, 200):
        video.write(np.full((16, 32, 3), (value, 0, 0), np.uint8))
    video.release()
    frames = list(read_frames(path))
    assert [f.shape for f in frames] == [(16, 32, 3)] * 3
    assert np.abs(np.stack([f.mean(axis=(0, 1))[0] for f in frames]) - [50, 100, 200]).max() < 8
    (tmp_path / "no.avi").write_text("no video")
    with pytest.raises(ValueError, match=r"no\.avi cannot be read"):
        next(read_frames(tmp_path / "no.avi"))


def test_without_opencv_videos_say_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="pip install opencv"):
        next(read_frames(tmp_path / "a.mp4"))
