import hashlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fcos_d2.quickstart import fetch
from fcos_d2.quickstart.fetch import fetch_wheel
from fcos_d2.utils.files import file_sha256

REQUIREMENT = "some-trees==1.2"
NAME = "some_trees-1.2-py3-none-any.whl"
CONTENT = b"a wheel"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class FakePip:
    """Stands in for subprocess.run: answers with what each call should leave, or an error text."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.commands = []
        self.requirements = []

    def __call__(self, command, **_):
        self.commands.append(command)
        self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, str):
            return subprocess.CompletedProcess(command, 1, stdout="", stderr=answer)
        if answer is not None:
            Path(command[command.index("--dest") + 1], NAME).write_bytes(answer)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")


@pytest.fixture
def pip(monkeypatch):
    def install(*answers):
        fake = FakePip(*answers)
        monkeypatch.setattr(fetch.subprocess, "run", fake)
        return fake

    monkeypatch.setattr(fetch.time, "sleep", lambda seconds: None)
    return install


def test_a_wheel_is_downloaded_with_its_hash_and_left_alone_in_the_folder(tmp_path, pip):
    fake = pip(CONTENT)
    folder = tmp_path / "new" / "downloads"
    path = fetch_wheel(REQUIREMENT, SHA256, folder)
    assert path == folder / NAME
    assert path.read_bytes() == CONTENT
    assert list(folder.iterdir()) == [path]
    assert fake.commands[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--require-hashes"} < set(fake.commands[0])
    # Renaming is atomic only within one disk.
    assert Path(fake.commands[0][fake.commands[0].index("--dest") + 1]).parent == folder
    assert fake.requirements == [f"{REQUIREMENT} --hash=sha256:{SHA256}\n"]


def test_a_good_file_is_used_without_pip(tmp_path, pip):
    fake = pip()
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch_wheel(REQUIREMENT, SHA256, tmp_path) == tmp_path / NAME
    assert fake.commands == []


def test_the_spelling_of_the_name_does_not_matter(tmp_path, pip):
    pip()
    (tmp_path / NAME).write_bytes(CONTENT)
    assert fetch_wheel("Some.Trees==1.2", SHA256, tmp_path) == tmp_path / NAME


def test_a_damaged_file_is_fetched_again_and_others_are_left_alone(tmp_path, pip, caplog):
    pip(CONTENT)
    (tmp_path / NAME).write_bytes(CONTENT[:3])
    other = tmp_path / "some_trees-1.3-py3-none-any.whl"
    other.write_bytes(b"other")
    assert fetch_wheel(REQUIREMENT, SHA256, tmp_path).read_bytes() == CONTENT
    assert "wrong sha256" in caplog.text
    assert other.read_bytes() == b"other"


@pytest.mark.parametrize("bad", [b"something else", None, "ERROR: no connection"])
def test_a_failed_attempt_is_followed_by_one_without_the_cache(tmp_path, pip, bad, caplog):
    fake = pip(bad, CONTENT)
    assert fetch_wheel(REQUIREMENT, SHA256, tmp_path).read_bytes() == CONTENT
    assert ["--no-cache-dir" in command for command in fake.commands] == [False, True]
    assert [p.name for p in tmp_path.iterdir()] == [NAME]
    assert "Attempt 1 of 3" in caplog.text


def test_the_last_failure_says_what_to_do(tmp_path, pip):
    stderr = "WARNING: slow\nERROR: first\nERROR: No matching distribution\n[notice] new pip\n"
    fake = pip(stderr, stderr)
    with pytest.raises(RuntimeError) as caught:
        fetch_wheel(REQUIREMENT, SHA256, tmp_path, attempts=2)
    text = str(caught.value)
    assert len(fake.commands) == 2
    assert f"could not fetch {REQUIREMENT} in 2 attempts" in text
    assert "ERROR: No matching distribution\n" in text
    assert f"pip download --no-deps --only-binary=:all: {REQUIREMENT}" in text
    assert str(tmp_path / "some_trees-1.2-*.whl") in text
    assert SHA256 in text
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_told(tmp_path, pip):
    pip("WARNING: Retrying after connection broken by 'X'\nERROR: No matching distribution\n")
    with pytest.raises(RuntimeError, match=r"distribution \(the connection failed\)"):
        fetch_wheel(REQUIREMENT, SHA256, tmp_path, attempts=1)


def test_a_wrong_hash_is_never_returned(tmp_path, pip):
    pip(b"bad", b"bad", b"bad")
    with pytest.raises(RuntimeError, match=f"expected {SHA256}"):
        fetch_wheel(REQUIREMENT, SHA256, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_error_without_a_text_is_still_told(tmp_path, pip):
    pip("")
    with pytest.raises(RuntimeError, match="pip ended with 1"):
        fetch_wheel(REQUIREMENT, SHA256, tmp_path, attempts=1)


def test_an_interruption_leaves_nothing(tmp_path, pip):
    pip(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch_wheel(REQUIREMENT, SHA256, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_not_used(tmp_path, pip):
    fake = pip(CONTENT)
    leftover = tmp_path / ".fetch-abc" / NAME
    leftover.parent.mkdir()
    leftover.write_bytes(CONTENT[:2])
    assert fetch_wheel(REQUIREMENT, SHA256, tmp_path) == tmp_path / NAME
    assert len(fake.commands) == 1
    assert leftover.read_bytes() == CONTENT[:2]


@pytest.mark.parametrize("requirement", ["trees", "trees>=1", "trees==1 --index-url=x", "==1", ""])
def test_only_exact_versions_are_accepted(tmp_path, requirement):
    with pytest.raises(ValueError, match=re.escape(repr(requirement))):
        fetch_wheel(requirement, SHA256, tmp_path)


def test_no_attempts_at_all_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        fetch_wheel(REQUIREMENT, SHA256, tmp_path, attempts=0)


def test_file_sha256_reads_all_blocks(tmp_path):
    content = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "file").write_bytes(content)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_attempts_are_logged_not_printed(tmp_path, pip, caplog, capsys):
    pip(CONTENT)
    with caplog.at_level(logging.INFO, logger=fetch.__name__):
        fetch_wheel(REQUIREMENT, SHA256, tmp_path)
    assert f"Fetching {REQUIREMENT}" in caplog.text
    assert capsys.readouterr().out == ""
