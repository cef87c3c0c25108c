"""FCOS for Detectron2. Importing this package registers its models, backbones and datasets."""

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "fcos_d2 needs detectron2, which is not on PyPI under its own name. Install it\n"
        "  with a compiler:     pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2.git'\n"
        "  without a compiler:  make setup    (in a checkout of fcos_d2), or\n"
        "      pip install --no-deps --require-hashes --only-binary=:all: --python-version 3.10 "
        "--implementation cp \\\n"
        "        --target \"$(python -c 'import sysconfig; "
        'print(sysconfig.get_paths()["purelib"])\')" -r requirements/detectron2.txt'
    ) from error

from . import model_zoo
from .config import add_fcos_config, get_cfg, get_config_file
from .data.datasets.builtin import register_datasets
from .inference.detections import Detections
from .inference.predictor import Predictor
from .modeling import FCOS, FCOSHead
from .version import __version__

__all__ = [
    "FCOS",
    "Detections",
    "FCOSHead",
    "Predictor",
    "__version__",
    "add_fcos_config",
    "get_cfg",
    "get_config_file",
    "model_zoo",
]

register_datasets()
