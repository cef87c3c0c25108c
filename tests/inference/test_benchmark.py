"""Output of ``fcos-d2 benchmark``; the speed itself is not tested."""

import json

import pytest
import torch
from support.model_folders import tiny_cfg, tiny_model, write_model_folder

from fcos_d2 import Predictor, cli
from fcos_d2.inference.benchmark import format_report, parse_size, run_benchmark
from fcos_d2.modeling import FCOS

PARTS = ("read", "network", "postprocess", "end_to_end")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a random model with many detections."""
    cfg = tiny_cfg()
    return write_model_folder(tmp_path_factory.mktemp("model"), cfg, tiny_model(cfg))


def test_every_combination_is_a_row_and_json_has_what_the_table_has(model, tmp_path, capsys):
    words = ["--batch-size", "1", "3", "--size", "64x96", "32x32", "--precision", "fp32", "bf16"]
    more = ["--runs", "2", "--device", "cpu", "--json", str(tmp_path / "b.json")]
    assert cli.main(["benchmark", "--model", str(model), *words, *more]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "b.json").read_text())
    cases = [(r["precision"], r["batch_size"], r["height"], r["width"]) for r in report["rows"]]
    assert len(set(cases)) == len(cases) == 8
    assert ("bf16", 3, 64, 96) in cases
    table = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")][2:]
    assert len(table) == 8
    for cells, row in zip(table, report["rows"]):
        words = [cell.strip() for cell in cells]
        assert words[:3] == [
            row["precision"],
            str(row["batch_size"]),
            f"{row['height']}x{row['width']}",
        ]
        assert words[3:7] == [f"{row[part]['median']:.2f}" for part in PARTS]
        assert words[8:] == [f"{row['images_per_second']:.1f}", f"{row['detections']:.0f}"]
    for facts in (report["machine"], report["model"]):
        assert all(f"{value}" in printed for value in facts.values())
    assert report["machine"]["torch"] == torch.__version__


def test_the_parts_are_within_the_whole(model):
    (row,) = run_benchmark(model, sizes=[(64, 96)], batch_sizes=[2], runs=3, device="cpu").rows
    for part in PARTS:
        timing = getattr(row, part)
        assert 0 < timing.min <= timing.median
    assert row.network.min <= row.end_to_end.median
    assert row.postprocess.min <= row.end_to_end.median
    assert row.images_per_second == pytest.approx(1000 / row.end_to_end.median)
    assert row.detections > 0
    assert row.peak_memory_mib is None


def test_the_network_sees_the_size_and_batch_asked_for(model, monkeypatch):
    seen = set()
    network = FCOS.network

    def look(self, images):
        seen.add(tuple(images.shape))
        return network(self, images)

    monkeypatch.setattr(FCOS, "network", look)
    run_benchmark(model, sizes=[(64, 96), (64, 128)], batch_sizes=[1, 2], runs=1, device="cpu")
    assert seen == {(n, 3, 64, width) for n in (1, 2) for width in (96, 128)}


def test_the_jpeg_is_resized_to_the_size_asked_for(model, monkeypatch):
    seen = []
    prepare = Predictor.prepare

    def look(self, image):
        prepared = prepare(self, image)
        seen.append((prepared.rgb.shape, tuple(prepared.tensor.shape)))
        return prepared

    monkeypatch.setattr(Predictor, "prepare", look)
    run_benchmark(model, sizes=[(40, 60)], runs=1, device="cpu")
    assert set(seen) == {((80, 120, 3), (3, 40, 60))}


def test_precisions_have_several_spellings(model):
    report = run_benchmark(model, precisions=["bfloat16"], runs=1, device="cpu")
    assert [row.precision for row in report.rows] == ["bf16"]


def test_a_config_without_weights_gets_random_weights_and_a_note(model):
    report = run_benchmark(model / "config.yaml", runs=1, device="cpu")
    assert report.model["weights"] == "random"
    assert "random weights: NMS has little to do" in format_report(report)
    assert [(row.height, row.width) for row in report.rows] == [(64, 100)]
    trained = run_benchmark(model / "config.yaml", model / "model_final.pth", runs=1, device="cpu")
    assert trained.notes == []
    assert trained.model["weights"] == str(model / "model_final.pth")


def test_nothing_stays_changed(model):
    before = torch.get_num_threads()
    report = run_benchmark(model, runs=1, threads=before + 1, device="cpu")
    assert report.machine["torch threads"] == before + 1
    assert torch.get_num_threads() == before


def test_a_case_that_does_not_fit_into_the_memory_is_left_out_and_named(model, monkeypatch):
    network = FCOS.network

    def small(self, images):
        if len(images) > 2:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return network(self, images)

    monkeypatch.setattr(FCOS, "network", small)
    report = run_benchmark(model, batch_sizes=[1, 4], runs=1, device="cpu")
    assert [row.batch_size for row in report.rows] == [1]
    assert "fp32, batch 4, 64x100: the memory of the GPU is too small" in report.notes[0]
    with pytest.raises(ValueError, match="no case fits into the memory"):
        run_benchmark(model, batch_sizes=[4], runs=1, device="cpu")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "512"], "'512' is not a size: give HEIGHTxWIDTH in pixels, such as 512x640"),
        (["--size", "0x64"], "'0x64' is not a size"),
        (["--batch-size", "1", "0"], "a batch size must be at least 1, got 0"),
        (["--runs", "0"], "the number of runs must be at least 1"),
        (["--threads", "0"], "the number of threads must be at least 1"),
        (["--precision", "fp16"], "precision fp16 does not work on the CPU"),
        (["--weights", "missing.pth"], "missing.pth"),
    ],
)
def test_impossible_options_are_explained(model, capsys, words, said):
    assert cli.main(["benchmark", "--model", str(model), "--device", "cpu", *words]) == 2
    assert said in capsys.readouterr().err


def test_sizes_are_height_then_width():
    assert parse_size("512x640") == (512, 640)
    assert parse_size(" 800X1344") == (800, 1344)
