"""Complete writes, checksums and nearest names."""

import hashlib

import pytest

from fcos_d2.utils.files import PART_SUFFIX, file_sha256, nearest, replacing


def test_a_file_is_replaced_only_when_it_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("half of the new")
        assert path.read_text() == "old"
        assert [p.suffix for p in tmp_path.iterdir() if p != path] == [PART_SUFFIX]
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path, "wb") as file:
        file.write(b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_part(tmp_path):
    path = tmp_path / "file.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write("first")
        second.write("second")
    assert path.read_text() == "first"  # the one that ended last


def test_checksum_and_nearest_names(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert nearest("doog", ["cat", "dog", "owl"]) == "; nearest: dog"
    assert nearest("zzz", ["cat", "dog"]) == ""
