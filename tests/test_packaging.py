"""Content of the wheel, and its use without the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ["LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.py"]
FOLDERS = ["configs", "fcos_d2", "requirements", "tests"]


def run(*command, cwd, **env):
    """Run a command that cannot import from the checkout and cannot download; return its stdout."""
    env = {**os.environ, "PYTHONPATH": "", "PIP_NO_INDEX": "1", **env}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_wheel(source, out):
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", out, source, cwd=out.parent)
    (wheel,) = out.iterdir()
    return wheel


def names_in(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Copy of the checkout, so that builds leave no files in it."""
    copy = tmp_path_factory.mktemp("source") / "fcos"
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SOURCES:
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build_wheel(source, tmp_path_factory.mktemp("wheel") / "dist")


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return archive.read(name).decode()


def test_wheel_is_for_any_machine(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_has_the_code_the_configs_and_nothing_else(wheel, source):
    def files(folder):
        paths = (source / folder).rglob("*")
        return {path.relative_to(source).as_posix() for path in paths if path.is_file()}

    names = {name for name in names_in(wheel) if ".dist-info/" not in name}
    configs = {f"fcos_d2/{name}" for name in files("configs") if name.endswith((".yaml", ".py"))}
    assert "fcos_d2/configs/fcos_R_50_FPN_1x.yaml" in configs
    assert names == files("fcos_d2") | configs


def test_wheel_has_the_license_and_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (license_name,) = (name for name in archive.namelist() if name.endswith("/LICENSE"))
        (scripts,) = (name for name in archive.namelist() if name.endswith("/entry_points.txt"))
        assert archive.read(license_name) == (ROOT / "LICENSE").read_bytes()
        assert "fcos-d2 = fcos_d2.cli:main" in archive.read(scripts).decode()


def test_wheel_does_not_require_detectron2(metadata):
    required = [line.lower() for line in metadata.splitlines() if line.startswith("Requires-Dist:")]
    assert any("torch>=" in line for line in required)
    assert not any("detectron2" in line for line in required)


def test_sdist_builds_the_same_wheel(wheel, source, tmp_path):
    code = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-c", code, tmp_path / "sdist", cwd=source)
    (sdist,) = (tmp_path / "sdist").iterdir()
    assert sorted(names_in(build_wheel(sdist, tmp_path / "dist"))) == sorted(names_in(wheel))


def test_wheel_finds_its_own_configs(wheel, tmp_path):
    site = tmp_path / "site"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    code = "import fcos_d2; print(fcos_d2.get_config_file('fcos_R_50_FPN_1x.yaml'))"
    printed = run(sys.executable, "-c", code, cwd=elsewhere, PYTHONPATH=str(site))
    expected = site / "fcos_d2" / "configs" / "fcos_R_50_FPN_1x.yaml"
    assert Path(printed.splitlines()[-1]).resolve() == expected.resolve()


def test_import_without_detectron2_says_how_to_install_it(tmp_path):
    code = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "detectron2":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
try:
    import fcos_d2
except ImportError as error:
    print(error)
else:
    sys.exit("imported without detectron2")
"""
    message = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert "requirements/detectron2.txt" in message
    assert "git+https://github.com/facebookresearch/detectron2.git" in message
