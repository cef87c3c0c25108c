import io

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from support.photos import noise
from support.tiny import tiny_overrides

import fcos_d2
from fcos_d2.inference.predictor import Predictor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder like one that training leaves, of a random model with strong detections."""
    folder = tmp_path_factory.mktemp("model")
    cfg = fcos_d2.get_cfg()
    cfg.merge_from_file(fcos_d2.get_config_file("fcos_R_50_FPN_1x.yaml"))
    cfg.merge_from_list(tiny_overrides("unused", **{"INPUT.MAX_SIZE_TEST": 100}))
    torch.manual_seed(0)
    net = build_model(cfg)
    for conv in (net.head.cls_logits, net.head.bbox_pred):
        torch.nn.init.normal_(conv.weight, std=0.2)
    (folder / "config.yaml").write_text(cfg.dump())
    names = ["cat", "dog", "owl"]
    checkpoint = {"model": net.state_dict(), "class_names": names}
    torch.save(checkpoint, folder / "model_final.pth")
    return folder


@pytest.fixture(scope="module")
def predictor(model):
    return Predictor.from_pretrained(model, device="cpu", score_threshold=0.3)


@pytest.fixture
def photos(tmp_path):
    """Six pictures, two broken ones, and a text that is none of our business."""
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
