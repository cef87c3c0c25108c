import pytest
from support.coco_maker import Maker


@pytest.fixture
def train(tmp_path):
    """Two images with a box each: nothing is wrong."""
    maker = Maker(tmp_path / "train", seed=0)
    maker.image("a.png")
    maker.image("b.jpg", size=(48, 64))
    return maker


@pytest.fixture
def val(tmp_path):
    maker = Maker(tmp_path / "val", seed=1)
    maker.image("v.png")
    maker.image("w.jpg")
    return maker
