from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.exported_models import make_predictor

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Paths: the size of the network's input, smaller and larger, none square but one."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(64, 64), (40, 62), (130, 200)]):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return sorted(str(path) for path in folder.iterdir())


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """A folder as training leaves it: ResNet-18, five levels, GN."""
    folder = tmp_path_factory.mktemp("saved")
    predictor = make_predictor()
    (folder / "config.yaml").write_text(predictor.cfg.dump())
    state = {"model": predictor.model.state_dict(), "class_names": predictor.class_names}
    torch.save(state, folder / "model_final.pth")
    return folder


@pytest.fixture(scope="session")
def exported(saved_model, tmp_path_factory, pictures):
    """What the command makes of it: path, exit status; int8 beside it."""
    from fcos_d2 import cli

    folder = tmp_path_factory.mktemp("exported")
    calibration = str(Path(pictures[0]).parent)
    arguments = ["--model", str(saved_model), "--output", str(folder), "--int8", calibration]
    status = cli.main(["export", *arguments, "--check", *pictures])
    return folder / "model_complete.onnx", status
