"""Versions, and pairs of them that fail."""

import pytest

from fcos_d2 import cli
from fcos_d2.utils.doctor import installed_versions, known_problems

GOOD = {"torch": "2.11.0+cu130", "torchvision": "0.26.0", "detectron2": "0.7.2", "setuptools": "80"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, None),
        ({"detectron2": ""}, "detectron2 is not installed"),
        ({"setuptools": "82.0.1"}, "setuptools<81"),
        ({"opencv-python": "5.0", "opencv-python-headless": "5.0"}, "overwrite each other"),
        ({"torchvision": "0.25.1"}, "was not built for torch 2.11.0"),
        ({"torch": "nightly"}, None),
    ],
)
def test_known_problems(changes, problem):
    found = known_problems({**GOOD, **changes})
    assert len(found) == int(problem is not None)
    assert problem is None or problem in found[0]


def test_the_report_names_what_is_installed(capsys):
    status = cli.main(["doctor"])
    out = capsys.readouterr().out
    assert status == int("problem" in out)
    versions = installed_versions()
    assert versions["torch"] in out and versions["detectron2"] in out and "Python" in out
