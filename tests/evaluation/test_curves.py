import json

import pytest
from PIL import Image

from fcos_d2.evaluation.curves import plot_curves, read_metrics


def write(path, rows, tail=""):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)


def test_a_resumed_and_truncated_file_is_read(tmp_path):
    path = tmp_path / "metrics.json"
    rows = [{"iteration": i, "total_loss": 3.0 - i, "lr": 0.1} for i in (0, 1, 2, 1, 2)]
    rows[3]["total_loss"] = 1.5
    write(path, [*rows, {"iteration": 2, "bbox/AP50": 40.0}], '{"iteration": 3, "total_l')
    series = read_metrics(path)
    assert series["total_loss"] == [(0, 3.0), (1, 1.5), (2, 1.0)]
    assert series["bbox/AP50"] == [(2, 40.0)]
    plot_curves(path, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000


def test_a_file_without_metrics_is_named(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text("")
    with pytest.raises(ValueError, match=r"metrics\.json holds no metrics"):
        plot_curves(path, tmp_path / "curves.png")
