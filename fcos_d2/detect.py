"""Detections of many pictures and videos into a folder; after an interruption it goes on.

Files are read in some threads, drawn and saved in others, and the network runs in the caller's.
``detections.jsonl`` is the state: a line is added when all else of a picture is on disk.
"""

import csv
import difflib
import glob
import hashlib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from PIL import Image

from . import __version__
from .data.images import PICTURE_SUFFIXES, VIDEO_SUFFIXES, import_cv2, read_frames, video_info
from .detections import Detections
from .predictor import Predictor, PreparedPicture

__all__ = ["FORMATS", "Source", "Summary", "detect_files", "find_sources", "run_detection"]

FORMATS = ("json", "jsonl", "csv")

_READERS, _WRITERS = 3, 2
# Pictures that wait decoded, and drawn but not yet saved: what bounds the memory.
_READ_AHEAD, _WRITE_BEHIND = 6, 6
# Formats of drawn pictures and videos; the name of another one gets the default's suffix added.
_DRAWN_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
_CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".avi": "MJPG"}
_CSV_COLUMNS = "file frame width height x1 y1 x2 y2 score class_id class_name"


@dataclass(frozen=True)
class Source:
    """A file to detect in.

    Attributes:
        path: where it is.
        name: its name in the results, with "/".
        size, mtime_ns: of the file, by which a change is noticed.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass
class Summary:
    """What a run did.

    Attributes:
        pictures: detected in now, frames of videos included.
        reused: files whose results were there from before.
        detections: found now.
        failures: a line for each file that could not be used, with the reason.
        seconds: of the whole run, without loading the model.
        network_seconds: of them, in the network.
    """

    pictures: int = 0
    reused: int = 0
    detections: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    network_seconds: float = 0.0


def detect_files(
    inputs: Sequence[str],
    model: str | os.PathLike,
    output: str | os.PathLike,
    *,
    weights: str | None = None,
    threshold: float = 0.3,
    classes: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "fp32",
    tile: int | None = None,
    overlap: float = 0.2,
    formats: Sequence[str] = ("json", "jsonl"),
    pictures: bool = True,
    recursive: bool = False,
    report: Callable[[str], None] = lambda _: None,
    on_result: Callable[[int, int | None], None] = lambda done, total: None,
) -> Summary:
    """What ``fcos-d2 detect`` does.

    Args:
        inputs: pictures, videos, folders and glob patterns.
        model, weights, device, precision, tile, overlap: see ``Predictor.from_pretrained``.
        output: folder; of a run before it, what still holds is kept.
        threshold: lowest score.
        classes: names of those wanted; None for all.
        batch_size: default is 1 on the CPU and 8 on a GPU.
        formats: of ``FORMATS``; "jsonl" is always written.
        pictures: whether to draw and save them.
        recursive: look into folders below the given ones, too.
        report: called with a line about each file that cannot be used, when it is met.
        on_result: called with the number of results so far and that of all, None if unknown.

    Raises:
        ValueError: for impossible options, or if no input leads to a file.
        OSError: if the model is missing or the output cannot be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown:
        raise ValueError(f"unknown format {unknown[0]!r}, expected some of {', '.join(FORMATS)}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"the threshold must be from 0 to 1, got {threshold}")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"the batch size must be at least 1, got {batch_size}")
    output = Path(output)
    sources, problems = find_sources(inputs, recursive=recursive, leave_out=output / "pictures")
    for problem in problems:
        report(problem)
    if not sources:
        raise ValueError("there is nothing to detect in: no input leads to a picture or video")
    predictor = Predictor.from_pretrained(
        model,
        weights,
        device=device,
        score_threshold=threshold,
        precision=precision,
        tile=tile,
        overlap=overlap,
    )
    summary = run_detection(
        predictor,
        sources,
        output,
        classes=classes,
        batch_size=batch_size or (8 if predictor.device.type == "cuda" else 1),
        formats=formats,
        pictures=pictures,
        report=report,
        on_result=on_result,
    )
    summary.failures[:0] = problems
    return summary


def find_sources(
    inputs: Sequence[str], *, recursive: bool = False, leave_out: Path | None = None
) -> tuple[list[Source], list[str]]:
    """Files that inputs stand for, each once.

    Of a folder these are the pictures and videos by their suffix; a file that is named is taken
    whatever its suffix. Names are relative to the folder or to the fixed part of the pattern; if
    two files then have the same, all are relative to what they have in common.

    Args:
        inputs: paths of files and folders, and glob patterns.
        recursive: look into folders below the given ones, too.
        leave_out: a folder whose files are none, such as that of drawn pictures.

    Returns:
        The files, and a line for each input that leads to none.
    """
    found: dict[Path, str] = {}
    problems = []
    for text in inputs:
        pairs = _expand(text, recursive)
        pairs = [(path, root) for path, root in pairs if not _is_below(path, leave_out)]
        if not pairs:
            problems.append(f"{text}: {_why_nothing(text, recursive)}")
        for path, root in pairs:
            found.setdefault(path.resolve(), path.relative_to(root).as_posix())
    if len(set(found.values())) < len(found):
        common = os.path.commonpath([path.parent for path in found])
        found = {path: path.relative_to(common).as_posix() for path in found}
    sources = []
    for path, name in found.items():
        status = path.stat()
        sources.append(Source(path, name, status.st_size, status.st_mtime_ns))
    return sources, problems


def run_detection(
    predictor: Predictor,
    sources: Sequence[Source],
    output: Path,
    *,
    classes: Sequence[str] | None = None,
    batch_size: int = 1,
    formats: Sequence[str] = ("json", "jsonl"),
    pictures: bool = True,
    report: Callable[[str], None] = lambda _: None,
    on_result: Callable[[int, int | None], None] = lambda done, total: None,
) -> Summary:
    """Detect in files, leaving out those that an earlier run with the same model and options did.

    Writes ``detections.jsonl``, ``pictures/``, and at the end ``detections.json`` with
    ``images.json``, and ``detections.csv``. Arguments are those of :func:`detect_files`.

    Raises:
        ValueError: for a class that the model does not know.
        OSError: if the output cannot be written.
    """
    start, in_network = time.perf_counter(), predictor.network_seconds
    wanted = _class_ids(predictor.class_names, classes)
    output.mkdir(parents=True, exist_ok=True)
    for name in ("detections.json", "images.json", "detections.csv"):
        (output / name).unlink(missing_ok=True)  # until the end they would be those of another run
    lines = output / "detections.jsonl"
    key = _options_key(predictor, wanted)
    drawn = output / "pictures" if pictures else None
    done, dropped = _keep_finished(lines, sources, key, drawn)
    if dropped:
        report(
            f"{lines}: {dropped} results of other files, a changed file, or another model or "
            "options are replaced"
        )
    has_video = any(source.is_video for source in sources)
    total = None if has_video else len(sources)
    summary = Summary(reused=len(done))
    with open(lines, "a", encoding="utf-8") as file:
        job = _Job(predictor, wanted, batch_size, key, drawn, file, summary, report)
        job.on_result = lambda: on_result(summary.pictures + summary.reused, total)
        todo = [source for source in sources if source.name not in done]
        job.detect_pictures([source for source in todo if not source.is_video])
        for source in todo:
            if source.is_video:
                job.detect_video(source)
    _keep_finished(lines, sources, key, drawn)  # puts them in order, drops videos that failed
    if "json" in formats:
        _write_coco(lines, output, predictor)
    if "csv" in formats:
        _write_csv(lines, output / "detections.csv")
    summary.seconds = time.perf_counter() - start
    summary.network_seconds = predictor.network_seconds - in_network
    return summary


@dataclass
class _Job:
    """One run: what its steps share."""

    predictor: Predictor
    class_ids: list[int] | None
    batch_size: int
    options: str
    drawn: Path | None
    lines: TextIO
    summary: Summary
    report: Callable[[str], None]
    on_result: Callable[[], None] = lambda: None

    def detect_pictures(self, sources: Sequence[Source]) -> None:
        in_network: deque[Source] = deque()

        def readable(readers: ThreadPoolExecutor) -> Iterator[PreparedPicture]:
            prepare = lambda source: self.predictor.prepare(source.path)  # noqa: E731
            for source, future in _ahead(readers, prepare, sources, _READ_AHEAD):
                try:
                    picture = future.result()
                except (OSError, ValueError) as error:
                    self.fail(source, error)
                    continue
                in_network.append(source)
                yield picture

        def detected(readers: ThreadPoolExecutor) -> Iterator[tuple]:
            for picture, found in self.predictor.stream(readable(readers), self.batch_size):
                yield in_network.popleft(), picture, self.wanted(found)

        def save(item: tuple[Source, PreparedPicture, Detections]) -> None:
            source, picture, found = item
            if self.drawn:
                _save_picture(found.draw(picture.rgb[..., ::-1]), self.drawn / _drawn_name(source))

        with _threads(_READERS) as readers, _threads(_WRITERS) as writers:
            results = _ahead(writers, save, detected(readers), _WRITE_BEHIND, as_soon_as_done=True)
            for (source, _, found), future in results:
                try:
                    future.result()
                except (OSError, ValueError) as error:
                    self.fail(source, f"{source.path} cannot be drawn: {error}")
                    continue
                self.add(source, found)

    def detect_video(self, source: Source) -> None:
        try:
            self._detect_video(source)
        except (ImportError, OSError, ValueError) as error:
            self.fail(source, error)

    def _detect_video(self, source: Source) -> None:
        rate, announced = video_info(source.path)
        frames = read_frames(source.path)

        def prepare_next(_: int) -> PreparedPicture | None:
            frame = next(frames, None)
            return None if frame is None else self.predictor.prepare(frame)

        def prepared(reader: ThreadPoolExecutor) -> Iterator[PreparedPicture]:
            for _, future in _ahead(reader, prepare_next, itertools.count(), _READ_AHEAD):
                picture = future.result()
                if picture is None:
                    return
                yield picture

        def detected(reader: ThreadPoolExecutor) -> Iterator[tuple]:
            pairs = self.predictor.stream(prepared(reader), self.batch_size)
            for i, ((picture, found), is_last) in enumerate(_with_last(pairs)):
                yield i, picture, self.wanted(found), is_last

        video = _VideoFile(self.drawn / _drawn_name(source), rate) if self.drawn else None

        def save(item: tuple[int, PreparedPicture, Detections, bool]) -> None:
            _, picture, found, is_last = item
            if video:
                video.write(found.draw(picture.rgb[..., ::-1]), is_last)

        try:
            # One thread each: a video is read and written in order.
            with _threads(1) as reader, _threads(1) as writer:
                results = _ahead(writer, save, detected(reader), _WRITE_BEHIND, True)
                for (i, _, found, is_last), future in results:
                    future.result()
                    self.add(source, found, frame=i, last_frame=is_last)
        finally:
            frames.close()
            if video:
                video.discard_part()
        if i + 1 < announced:
            self.report(f"{source.path}: ended after {i + 1} of {announced} announced frames")

    def wanted(self, found: Detections) -> Detections:
        if self.class_ids is None:
            return found
        return found.select(np.isin(found.class_ids, self.class_ids))

    def add(self, source: Source, found: Detections, **more: Any) -> None:
        """Append a line; it reaches the operating system before anything else happens."""
        values = found.to_dict()
        del values["source"]
        identity = {"size": source.size, "mtime_ns": source.mtime_ns, "options": self.options}
        line = {"file": source.name, **more, **values, **identity}
        self.lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.lines.flush()
        self.summary.pictures += 1
        self.summary.detections += len(found)
        self.on_result()

    def fail(self, source: Source, error: Exception | str) -> None:
        text = str(error)
        line = text if str(source.path) in text else f"{source.path}: {text}"
        self.summary.failures.append(line)
        self.report(line)


# Inputs


def _expand(text: str, recursive: bool) -> list[tuple[Path, Path]]:
    """Files of one input, each with the folder that its name is relative to."""
    path = Path(text)
    if path.is_dir():
        files = path.rglob("*") if recursive else path.glob("*")
        suffixes = PICTURE_SUFFIXES + VIDEO_SUFFIXES
        return [
            (file, path)
            for file in sorted(files)
            if file.suffix.lower() in suffixes
            and not any(part.startswith(".") for part in file.relative_to(path).parts)
            and file.is_file()
        ]
    if path.is_file():
        return [(path, path.parent)]
    if not glob.has_magic(text):
        return []
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), path.parts)
    matches = (Path(match) for match in sorted(glob.glob(text, recursive=True)))
    root = Path(*fixed)
    return [(match, root) for match in matches if match.is_file()]


def _why_nothing(text: str, recursive: bool) -> str:
    if Path(text).is_dir():
        deeper = "" if recursive else "; --recursive looks into folders below it"
        return f"no pictures or videos in this folder{deeper}"
    return "no file matches" if glob.has_magic(text) else "no such file or folder"


def _is_below(path: Path, folder: Path | None) -> bool:
    return folder is not None and folder.resolve() in path.resolve().parents


def _class_ids(class_names: Sequence[str], wanted: Sequence[str] | None) -> list[int] | None:
    if wanted is None:
        return None
    for name in wanted:
        if name not in class_names:
            near = difflib.get_close_matches(name, class_names, n=3, cutoff=0.4)
            raise ValueError(
                f"the model knows no class {name!r}; "
                + (f"nearest: {', '.join(near)}" if near else f"it has {', '.join(class_names)}")
            )
    return [i for i, name in enumerate(class_names) if name in wanted]


# Going on after an interruption


def _options_key(predictor: Predictor, class_ids: list[int] | None) -> str:
    """Changes with whatever changes results: weights, config, threshold, precision, classes."""
    model = predictor.cfg.MODEL.clone()
    model.defrost()
    model.WEIGHTS = model.DEVICE = ""
    values = (
        *(__version__, model.dump(), predictor.cfg.INPUT.dump(), predictor.class_names),
        *(predictor.score_threshold, predictor.precision, class_ids),
        *((predictor.tile, predictor.overlap) if predictor.tile else ()),
    )
    digest = hashlib.sha256(repr(values).encode())
    for name, tensor in predictor.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _keep_finished(
    path: Path, sources: Sequence[Source], options: str, drawn: Path | None
) -> tuple[set[str], int]:
    """Rewrite the lines: those of files that are done, in the order of the files.

    Lines go that are cut off, of videos that are not complete, of other or changed files or other
    options, or whose drawn picture is wanted and not there.

    Returns:
        Names of the files that are done, and how many whole lines went.
    """
    if not path.is_file():
        return set(), 0
    current = {source.name: source for source in sources}
    spans: dict[str, list[tuple[int, int]]] = {}
    complete = set()
    whole_lines = offset = 0
    for raw, line in _read_lines(path):
        name = line.get("file") if line else None
        whole_lines += line is not None
        if name in current and _still_holds(line, current[name], options, drawn):
            spans.setdefault(name, []).append((offset, len(raw)))
            if line.get("last_frame", True):
                complete.add(name)
        offset += len(raw)
    kept = [spans[source.name] for source in sources if source.name in complete]
    with _replacing(path, "wb") as new, open(path, "rb") as old:
        for start, length in itertools.chain.from_iterable(kept):
            old.seek(start)
            new.write(old.read(length))
    incomplete = sum(len(lines) for name, lines in spans.items() if name not in complete)
    return complete, whole_lines - incomplete - sum(map(len, kept))


def _still_holds(line: dict, source: Source, options: str, drawn: Path | None) -> bool:
    then = (line.get("size"), line.get("mtime_ns"), line.get("options"))
    unchanged = then == (source.size, source.mtime_ns, options)
    if not line.get("last_frame", True):  # its video is drawn only at the end
        return unchanged
    return unchanged and (drawn is None or (drawn / _drawn_name(source)).is_file())


def _read_lines(path: Path) -> Iterator[tuple[bytes, dict | None]]:
    """Each line as it is and as it reads; None for one that is cut off."""
    with open(path, "rb") as file:
        for raw in file:
            try:
                line = json.loads(raw) if raw.endswith(b"\n") else None
            except ValueError:
                line = None
            yield raw, line if isinstance(line, dict) else None


@contextmanager
def _replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[Any]:
    """A new file that takes the place of ``path`` once it is complete."""
    part = path.with_name(path.name + ".part")
    with open(part, mode, **options) as file:
        yield file
    os.replace(part, path)


# Threads


@contextmanager
def _threads(number: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(number)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor,
    function: Callable[[Any], Any],
    items: Iterable[Any],
    depth: int,
    as_soon_as_done: bool = False,
) -> Iterator[tuple[Any, Future]]:
    """Run ``function`` on items, ``depth`` of them ahead of what is yielded, in their order.

    Args:
        as_soon_as_done: do not wait for ``depth`` others first; for the end of a chain.
    """
    pending: deque[tuple[Any, Future]] = deque()
    for item in items:
        pending.append((item, pool.submit(function, item)))
        while pending and (len(pending) > depth or (as_soon_as_done and pending[0][1].done())):
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _with_last(items: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """Each item, and whether it is the last one."""
    previous: list[Any] = []
    for item in items:
        if previous:
            yield previous.pop(), False
        previous.append(item)
    if previous:
        yield previous.pop(), True


# Outputs


def _drawn_name(source: Source) -> str:
    suffixes = tuple(_CODECS) if source.is_video else _DRAWN_SUFFIXES
    default = ".mp4" if source.is_video else ".png"
    return source.name if source.name.lower().endswith(suffixes) else source.name + default


def _save_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 92} if path.suffix.lower() in (".jpg", ".jpeg", ".webp") else {}
    picture.save(path, **options)


class _VideoFile:
    """A video that gets its name once it is complete.

    Args:
        path: its suffix decides the codec.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float):
        self.path, self.rate = path, rate
        self.part = path.with_name(path.stem + ".part" + path.suffix)
        self.writer = None

    def write(self, picture: Image.Image, is_last: bool) -> None:
        cv2 = import_cv2()
        if self.writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            codec = cv2.VideoWriter_fourcc(*_CODECS[self.path.suffix.lower()])
            self.writer = cv2.VideoWriter(str(self.part), codec, self.rate, picture.size)
            if not self.writer.isOpened():
                raise ValueError(f"OpenCV cannot write the video {self.path}; try --no-pictures")
        self.writer.write(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))
        if is_last:
            self.writer.release()
            os.replace(self.part, self.path)

    def discard_part(self) -> None:
        """Remove what is there of a video that was not completed."""
        if self.writer is not None:
            self.writer.release()
        self.part.unlink(missing_ok=True)


def _write_coco(lines: Path, output: Path, predictor: Predictor) -> None:
    """``detections.json``, COCO's results, and ``images.json``, what their ids mean."""
    names = predictor.class_names
    category_ids = predictor.category_ids or list(range(1, len(names) + 1))
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, names)]
    with (
        _replacing(output / "detections.json", encoding="utf-8") as results,
        _replacing(output / "images.json", encoding="utf-8") as images,
    ):
        head = {"info": {}, "annotations": [], "categories": categories}
        images.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "images": [')
        results.write("[")
        results_before = images_before = ""
        for image_id, (_, line) in enumerate(_read_lines(lines), start=1):
            height, width = line["image_size"]
            image = {"id": image_id, "file_name": line["file"], "width": width, "height": height}
            if "frame" in line:
                image["frame"] = line["frame"]
            images.write(f"{images_before}\n{json.dumps(image, ensure_ascii=False)}")
            images_before = ","
            for result in Detections.from_dict(line).to_coco(image_id, category_ids):
                results.write(f"{results_before}\n{json.dumps(result)}")
                results_before = ","
        images.write("\n]}\n")
        results.write("\n]\n")


def _write_csv(lines: Path, path: Path) -> None:
    """A row for each detection; ``frame`` is empty for pictures."""
    with _replacing(path, newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_CSV_COLUMNS.split())
        for _, line in _read_lines(lines):
            height, width = line["image_size"]
            for row in zip(line["boxes"], line["scores"], line["class_ids"], line["class_names"]):
                box, *rest = row
                writer.writerow([line["file"], line.get("frame", ""), width, height, *box, *rest])
