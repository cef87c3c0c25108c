import subprocess
import sys

import pytest
from fvcore.common.registry import Registry

from fcos_d2.utils.registry import register


def run_python(code, cwd):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120
    )


def test_importing_registers_everything_in_a_new_process(tmp_path):
    code = (
        "import fcos_d2\n"
        "from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY\n"
        "from detectron2.data import DatasetCatalog\n"
        "assert META_ARCH_REGISTRY.get('FCOS') is fcos_d2.FCOS\n"
        "assert 'build_fcos_resnet_fpn_p3p7_backbone' in BACKBONE_REGISTRY\n"
        "assert 'build_fcos_timm_fpn_p3p7_backbone' in BACKBONE_REGISTRY\n"
        "assert 'neon_trees_train' in DatasetCatalog.list()\n"
        "assert fcos_d2.model_zoo.list_configs() and fcos_d2.modeling.backbone.build_fpn\n"
        "assert all(hasattr(fcos_d2, name) for name in fcos_d2.__all__)\n"
        "from fcos_d2.modeling.tta import FCOSWithTTA\n"
        "from fcos_d2.engine.main import run\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_taken_name_warns_instead_of_crashing(tmp_path):
    code = (
        "from detectron2.modeling import META_ARCH_REGISTRY\n"
        "class FCOS: pass\n"
        "META_ARCH_REGISTRY.register(FCOS)\n"
        "import fcos_d2\n"
        "assert META_ARCH_REGISTRY.get('FCOS') is FCOS\n"
        "assert META_ARCH_REGISTRY.get('FCOS_D2') is fcos_d2.FCOS\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "FCOS is already registered" in done.stderr


def test_registering_the_same_thing_twice_keeps_one_entry(caplog):
    registry = Registry("TEST")

    def build():
        pass

    assert register(registry, build) == register(registry, build) == "build"
    assert len(list(registry)) == 1
    assert not caplog.records


@pytest.mark.parametrize("word", ["pkg_resources", "distutils", ".cuda()", 'device="cuda"'])
def test_sources_avoid_what_breaks_on_other_machines(word):
    from pathlib import Path

    import fcos_d2

    for path in Path(fcos_d2.__file__).parent.rglob("*.py"):
        assert word not in path.read_text(), f"{word} in {path.name}"
