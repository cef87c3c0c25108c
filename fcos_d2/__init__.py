"""FCOS for Detectron2. Importing this package registers its models, backbones and data sets."""

__version__ = "0.1.0"

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

from .config import add_fcos_config, get_cfg
from .data.catalog import register_datasets
from .detections import Detections
from .model_zoo import get_config_file
from .modeling import FCOS, FCOSHead
from .predictor import Predictor

__all__ = [
    "FCOS",
    "Detections",
    "FCOSHead",
    "Predictor",
    "add_fcos_config",
    "get_cfg",
    "get_config_file",
]

register_datasets()
