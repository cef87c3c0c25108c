import subprocess
import sys

import pytest

from fcos_d2 import cli


def test_configs_lists_what_get_config_file_takes(capsys):
    assert cli.main(["configs"]) == 0
    assert "fcos_R_50_FPN_1x.yaml" in capsys.readouterr().out.splitlines()


def test_module_and_command_are_the_same():
    done = subprocess.run(
        [sys.executable, "-m", "fcos_d2", "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0
    assert "quickstart" in done.stdout


def test_a_failed_quickstart_says_why_and_ends_with_status_2(monkeypatch, capsys):
    from fcos_d2.quickstart import run as quickstart

    def fail(*args, **kwargs):
        raise RuntimeError("could not fetch the trees")

    monkeypatch.setattr(quickstart, "prepare_neon_trees", fail)
    assert cli.main(["quickstart"]) == 2
    captured = capsys.readouterr()
    assert "1/4 data" in captured.out
    assert captured.err == "quickstart: could not fetch the trees\n"


def test_an_unknown_command_is_rejected():
    with pytest.raises(SystemExit):
        cli.main(["detekt"])


def test_plot_draws_the_curves_of_a_training(tmp_path, capsys):
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 1.5, "lr": 0.1}\n')
    assert cli.main(["plot", str(tmp_path)]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert capsys.readouterr().out.strip() == str(tmp_path / "curves.png")
    assert cli.main(["plot", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_fetch_weights_says_where_they_are_or_why_not(monkeypatch, capsys):
    from fcos_d2.quickstart import pretrained

    monkeypatch.setattr(pretrained, "prepare_efficientnet_lite0", lambda root: "there.pth")
    assert cli.main(["fetch-weights"]) == 0
    assert capsys.readouterr().out.strip() == "there.pth"

    def fail(root):
        raise RuntimeError("no network")

    monkeypatch.setattr(pretrained, "prepare_efficientnet_lite0", fail)
    assert cli.main(["fetch-weights"]) == 2
    assert "no network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["convert", "nowhere.pth", "--output", "o"], "no checkpoint 'nowhere.pth'"),
        (["detect", "a.png", "--model", "nowhere", "--output", "o"], "no such file"),
        (["benchmark", "--model", "nowhere.yaml"], "no config file 'nowhere.yaml'"),
        (["export", "--model", "nowhere.yaml", "--output", "o"], "no config file 'nowhere.yaml'"),
        (["check-data", "--yolo", "nowhere.yaml"], "nowhere.yaml"),
        (["plot", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_status_2_in_every_command(
    tmp_path, monkeypatch, capsys, words, said
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert said in captured.err and all(line.startswith(f"{words[0]}: ") for line in lines)
    assert captured.out == "" and not list(tmp_path.iterdir())


def test_the_text_of_a_key_error_has_no_quotes_around_it(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("MODEL: {FCOS: {NUM_CLASES: 3}}\n")
    assert cli.main(["benchmark", "--model", str(tmp_path / "a.yaml"), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.startswith("benchmark: no config key 'MODEL.FCOS.NUM_CLASES'")


def test_ctrl_c_is_status_130(monkeypatch, capsys):
    from fcos_d2.quickstart import pretrained

    def interrupt(root):
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrained, "prepare_efficientnet_lite0", interrupt)
    assert cli.main(["fetch-weights"]) == 130
    assert capsys.readouterr().err == "fetch-weights: stopped\n"
