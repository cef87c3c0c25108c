"""Detections of many pictures and videos into a folder; after an interruption it goes on.

Files are read in some threads, drawn and saved in others, and the network runs in the caller's.
"""

import difflib
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ..inference.detections import Detections
from ..inference.predictor import Predictor, PreparedPicture
from .results import (
    VideoFile,
    drawn_name,
    keep_finished,
    options_key,
    save_picture,
    write_coco,
    write_csv,
)
from .sources import Source, find_sources
from .threads import ahead, ctrl_c_as_event, threads, with_last
from .video import read_camera, read_frames, video_info

__all__ = ["FORMATS", "Summary", "detect_files", "run_detection"]

FORMATS = ("json", "jsonl", "csv")

_READERS, _WRITERS = 3, 2
# Pictures that wait decoded, and drawn but not yet saved: what bounds the memory.
_READ_AHEAD, _WRITE_BEHIND = 6, 6


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
    compile_mode: str = "",
    tile: int | None = None,
    overlap: float = 0.2,
    formats: Sequence[str] = ("json", "jsonl"),
    pictures: bool = True,
    recursive: bool = False,
    max_frames: int | None = None,
    report: Callable[[str], None] = lambda _: None,
    on_result: Callable[[int, int | None], None] = lambda done, total: None,
) -> Summary:
    """What ``fcos-d2 detect`` does.

    Args:
        inputs: pictures, videos, folders, glob patterns, and a camera as ``camera:0``.
        model, weights, device, precision, compile_mode, tile, overlap: see
            ``Predictor.from_pretrained``.
        output: folder; of a run before it, what still holds is kept.
        threshold: lowest score.
        classes: names of those wanted; None for all.
        batch_size: default is 1 on the CPU and 8 on a GPU.
        formats: of ``FORMATS``; "jsonl" is always written.
        pictures: whether to draw and save them.
        recursive: look into folders below the given ones, too.
        max_frames: of the camera; None goes on until Ctrl-C, which ends it as a video ends.
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
    cameras = sum(source.camera is not None for source in sources)
    if cameras > 1:
        raise ValueError("one camera at a time: give each a run and an output of its own")
    if max_frames is not None and not (cameras and max_frames > 0):
        raise ValueError("the number of frames is for a camera, such as camera:0, and at least 1")
    if not sources:
        raise ValueError("there is nothing to detect in: no input leads to a picture or video")
    predictor = Predictor.from_pretrained(
        model,
        weights,
        device=device,
        score_threshold=threshold,
        precision=precision,
        compile_mode=compile_mode,
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
        max_frames=max_frames,
        report=report,
        on_result=on_result,
    )
    summary.failures[:0] = problems
    return summary


def run_detection(
    predictor: Predictor,
    sources: Sequence[Source],
    output: Path,
    *,
    classes: Sequence[str] | None = None,
    batch_size: int = 1,
    formats: Sequence[str] = ("json", "jsonl"),
    pictures: bool = True,
    max_frames: int | None = None,
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
    key = options_key(predictor, wanted)
    drawn = output / "pictures" if pictures else None
    done, dropped = keep_finished(lines, sources, key, drawn)
    if dropped:
        report(
            f"{lines}: {dropped} results of other files, a changed file, an earlier camera, or "
            "another model or options are replaced"
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
                job.detect_video(source, max_frames)
    keep_finished(lines, sources, key, drawn)  # puts them in order, drops videos that failed
    if "json" in formats:
        write_coco(lines, output, predictor)
    if "csv" in formats:
        write_csv(lines, output / "detections.csv")
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
            for source, future in ahead(readers, prepare, sources, _READ_AHEAD):
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
                save_picture(found.draw(picture.rgb[..., ::-1]), self.drawn / drawn_name(source))

        with threads(_READERS) as readers, threads(_WRITERS) as writers:
            results = ahead(writers, save, detected(readers), _WRITE_BEHIND, as_soon_as_done=True)
            for (source, _, found), future in results:
                try:
                    future.result()
                except (OSError, ValueError) as error:
                    self.fail(source, f"{source.path} cannot be drawn: {error}")
                    continue
                self.add(source, found)

    def detect_video(self, source: Source, max_frames: int | None = None) -> None:
        """Detect in all frames of a video, or in those of a camera until Ctrl-C or so many."""
        try:
            if source.camera is None:
                self._detect_video_file(source)
            else:
                self._detect_camera(source, max_frames)
        except (ImportError, OSError, ValueError) as error:
            self.fail(source, error)

    def _detect_video_file(self, source: Source) -> None:
        rate, announced = video_info(source.path)
        with closing(read_frames(source.path)) as frames:
            number = self._detect_frames(source, frames, rate)
        if number < announced:
            self.report(f"{source.path}: ended after {number} of {announced} announced frames")

    def _detect_camera(self, source: Source, max_frames: int | None) -> None:
        with ctrl_c_as_event() as stopped:
            rate, endless = read_camera(source.camera)
            self.report(f"{source.path} is open; Ctrl-C ends it")
            with closing(endless):
                frames = itertools.takewhile(lambda _: not stopped.is_set(), endless)
                number = self._detect_frames(
                    source, itertools.islice(frames, max_frames), rate, live=True
                )
        if not stopped.is_set() and number != max_frames:
            self.report(f"{source.path}: no more pictures after {number} frames: was it unplugged?")

    def _detect_frames(
        self, source: Source, frames: Iterator[np.ndarray], rate: float, live: bool = False
    ) -> int:
        """Detect in frames and draw them; of live ones the time is kept, also in the drawn video.

        Returns:
            How many there were.
        """
        times: deque[float] = deque()

        def prepare_next(_: int) -> tuple[float, PreparedPicture] | None:
            frame = next(frames, None)
            return None if frame is None else (time.monotonic(), self.predictor.prepare(frame))

        def prepared(reader: ThreadPoolExecutor) -> Iterator[PreparedPicture]:
            for _, future in ahead(reader, prepare_next, itertools.count(), _READ_AHEAD):
                if future.result() is None:
                    return
                moment, picture = future.result()
                times.append(moment)
                yield picture

        def detected(reader: ThreadPoolExecutor) -> Iterator[tuple]:
            start = None
            pairs = self.predictor.stream(prepared(reader), self.batch_size)
            for (picture, found), is_last in with_last(pairs):
                moment = times.popleft()
                start = moment if start is None else start
                yield picture, self.wanted(found), is_last, moment - start

        video = VideoFile(self.drawn / drawn_name(source), rate) if self.drawn else None

        def save(item: tuple[PreparedPicture, Detections, bool, float]) -> None:
            picture, found, is_last, seconds = item
            if video:
                until = seconds if live else 0.0
                video.write(found.draw(picture.rgb[..., ::-1]), is_last, until)

        number = 0
        try:
            # One thread each: a video is read and written in order.
            with threads(1) as reader, threads(1) as writer:
                results = ahead(writer, save, detected(reader), _WRITE_BEHIND, True)
                for (_, found, is_last, seconds), future in results:
                    future.result()
                    more = {"seconds": round(seconds, 3)} if live else {}
                    self.add(source, found, frame=number, last_frame=is_last, **more)
                    number += 1
        finally:
            if video:
                video.discard_part()
        return number

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
