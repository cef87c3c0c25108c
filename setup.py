import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
README = ROOT / "README.md"
# Read, not imported: importing needs torch and detectron2.
VERSION = re.search(
    r'^__version__ = "(.+)"', (ROOT / "fcos_d2" / "version.py").read_text("utf-8"), re.MULTILINE
).group(1)

EXTRAS = {
    "export": ["onnx", "onnxruntime", "onnxscript"],
    "fast-eval": ["faster-coco-eval"],
    # detectron2's drawing needs both. Not required: on bare servers opencv-python does not load,
    # and beside opencv-python-headless it breaks that.
    "plot": ["matplotlib", "opencv-python"],
    "test": ["mypy", "pytest", "pytest-cov", "pytest-xdist", "ruff"],
    "timm": ["timm>=0.9"],
}

setup(
    name="fcos_d2",
    version=VERSION,
    description="FCOS object detection for Detectron2",
    long_description=README.read_text("utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # configs/ stays at the top of the repository and travels as fcos_d2/configs.
    packages=[*find_packages(include=["fcos_d2", "fcos_d2.*"]), "fcos_d2.configs"],
    package_dir={"fcos_d2.configs": "configs"},
    package_data={"fcos_d2": ["py.typed"], "fcos_d2.configs": ["**/*.yaml", "**/*.py"]},
    python_requires=">=3.10",
    # detectron2 is needed too, but is not on PyPI: naming it here would make every install fail.
    # `import fcos_d2` says how to install it.
    install_requires=[
        "torch>=2.3",
        "torchvision>=0.18",
        "fvcore",
        "iopath",
        "numpy",
        "omegaconf>=2.1",
        "Pillow",
        "pycocotools>=2.0.2",
        "tqdm",
    ],
    extras_require={**EXTRAS, "all": sorted({name for extra in EXTRAS.values() for name in extra})},
    entry_points={"console_scripts": ["fcos-d2 = fcos_d2.cli:main"]},
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
