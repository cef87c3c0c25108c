from PIL import Image
from support.photos import GOOD, noise

from fcos_d2.detect.sources import find_inputs


def test_a_folder_gives_its_images_and_with_recursive_those_below(photos):
    flat, _ = find_inputs([str(photos)])
    deep, _ = find_inputs([str(photos)], recursive=True)
    assert {s.name for s in deep} - {s.name for s in flat} == {"below/deep.png"}
    assert {s.name for s in flat} == {*GOOD[1:], "cut.jpg", "text.jpg"}


def test_files_folders_and_patterns_mix_and_each_file_comes_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    inputs = ["plain.png", "*.png", "below", "**/deep*.png", "missing.png", "*.gif"]
    files, problems = find_inputs(inputs)
    names = [file.name for file in files]
    assert names == ["plain.png", "deep16.png", "gray.png", "pixel.png", "deep.png"]
    assert problems == ["missing.png: no such file or folder", "*.gif: no file matches"]


def test_equal_names_get_their_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise(4, 4)).save(tmp_path / folder / "x.png")
    files, _ = find_inputs([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [file.name for file in files] == ["a/x.png", "b/x.png"]
