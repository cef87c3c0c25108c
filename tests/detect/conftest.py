import io

import numpy as np
import pytest
from PIL import Image
from support.model_folders import tiny_cfg, tiny_model, write_model_folder
from support.photos import noise

from fcos_d2.inference.predictor import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a random model with strong detections."""
    cfg = tiny_cfg()
    folder = tmp_path_factory.mktemp("model")
    return write_model_folder(folder, cfg, tiny_model(cfg), class_names=["cat", "dog", "owl"])


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor.from_pretrained(model, device="cpu", score_threshold=0.3)


@pytest.fixture
def photos(tmp_path):
    """Six images, two broken images, and files that are not images."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(50, 70)).save(folder / "plain.png")
    Image.fromarray(noise(40, 90)).save(folder / "photo.jpg", exif=exif)
    Image.fromarray(noise(60, 60)[..., 0]).save(folder / "gray.png")
    Image.fromarray(noise(60, 60)[..., 0].astype(np.uint16) * 257).save(folder / "deep16.png")
    Image.fromarray(noise(1, 1)).save(folder / "pixel.png")
    Image.fromarray(noise(64, 64)).save(folder / "below" / "deep.png")
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 64)).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[:-900])
    (folder / "text.jpg").write_text("I am text")
    (folder / "notes.txt").write_text("ignore me")
    (folder / ".hidden.png").write_text("ignore me, too")
    return folder
