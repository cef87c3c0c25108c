from PIL import Image
from support.photos import GOOD, noise

from fcos_d2.detect.sources import find_sources


def test_a_folder_gives_its_pictures_and_with_recursive_those_below(photos):
    flat, _ = find_sources([str(photos)])
    deep, _ = find_sources([str(photos)], recursive=True)
    assert {s.name for s in deep} - {s.name for s in flat} == {"below/deep.png"}
    assert {s.name for s in flat} == {*GOOD[1:], "cut.jpg", "text.jpg"}


def test_files_folders_and_patterns_mix_and_each_file_comes_once(photos, monkeypatch):
    monkeypatch.chdir(photos)
    inputs = ["plain.png", "*.png", "below", "**/deep*.png", "missing.png", "*.gif"]
    sources, problems = find_sources(inputs)
    names = [s.name for s in sources]
    assert names == ["plain.png", "deep16.png", "gray.png", "pixel.png", "deep.png"]
    assert problems == ["missing.png: no such file or folder", "*.gif: no file matches"]


def test_equal_names_are_told_apart_by_their_folders(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise(4, 4)).save(tmp_path / folder / "x.png")
    sources, _ = find_sources([str(tmp_path / "a"), str(tmp_path / "b")])
    assert [s.name for s in sources] == ["a/x.png", "b/x.png"]
