"""Devices and spellings of precision."""

import pytest
import torch

from fcos_d2.utils.device import autocast, check_precision, choose_device, parse_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "name, spellings",
    [
        ("fp32", ["fp32", "float32", "float"]),
        ("bf16", ["bf16", "bfloat16"]),
        ("fp16", ["fp16", "float16", "half"]),
    ],
)
def test_every_spelling_means_one_precision(name, spellings):
    assert [parse_precision(s) for s in spellings] == [name] * len(spellings)
    if name != "fp16":
        assert [check_precision(s, CPU) for s in spellings] == [name] * len(spellings)


def test_wrong_precisions_name_their_key():
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.DTYPE is 'int8', expected one of fp32"):
        parse_precision("int8", "SOLVER.AMP.DTYPE")
    with pytest.raises(ValueError, match=r"TEST\.PRECISION fp16 does not work on the CPU"):
        check_precision("half", CPU, "TEST.PRECISION")


def test_autocast_changes_what_networks_compute_in():
    conv, x = torch.nn.Conv2d(1, 1, 1), torch.ones(1, 1, 2, 2)
    with autocast("bfloat16", CPU):
        assert conv(x).dtype == torch.bfloat16
    with autocast("fp32", CPU):
        assert conv(x).dtype == torch.float32


def test_devices_that_are_not_there_are_refused():
    assert choose_device("cpu") == CPU
    with pytest.raises(ValueError, match="unknown device 'tpu9'"):
        choose_device("tpu9")
    with pytest.raises(ValueError, match="torch sees"):
        choose_device(f"cuda:{torch.cuda.device_count()}")
