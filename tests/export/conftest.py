import functools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.exported_models import make_predictor
from support.model_folders import write_model_folder

pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def exporters_without_coverage():
    """Pause the tracing of lines while torch exports, which takes twice as long with it."""

    def untraced(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            trace = sys.gettrace()
            sys.settrace(None)
            try:
                return function(*args, **kwargs)
            finally:
                sys.settrace(trace)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for module in (torch.export, torch.onnx):
            patch.setattr(module, "export", untraced(module.export))
        yield


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Paths of three images: of the size of the network's input, smaller and larger."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i, (height, width) in enumerate([(64, 64), (40, 62), (130, 200)]):
        noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return sorted(str(path) for path in folder.iterdir())


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory):
    """Folder of a model: ResNet-18, five levels, GN."""
    predictor = make_predictor()
    names = predictor.class_names
    folder = tmp_path_factory.mktemp("saved")
    return write_model_folder(folder, predictor.cfg, predictor.model, class_names=names)


@pytest.fixture(scope="session")
def exported(saved_model, tmp_path_factory, images):
    """Path of the file that the command exports, with int8 beside it, and the exit status."""
    from fcos_d2 import cli

    folder = tmp_path_factory.mktemp("exported")
    calibration = str(Path(images[0]).parent)
    arguments = ["--model", str(saved_model), "--output", str(folder), "--int8", calibration]
    status = cli.main(["export", *arguments, "--check", *images])
    return folder / "model_complete.onnx", status
