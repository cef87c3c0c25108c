"""Detections on many images and videos, written to a folder; an interrupted run can be continued.

Some threads read files, others draw and save, and the network runs in the caller's thread.
"""

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
from ..inference.predictor import Predictor, PreparedImage
from ..utils.files import nearest
from .options import DetectOptions
from .results import (
    VideoFile,
    drawn_name,
    keep_finished,
    options_key,
    save_image,
    write_coco,
    write_csv,
)
from .sources import InputFile, find_inputs
from .threads import ctrl_c_as_event, map_ahead, mark_last, thread_pool
from .video import read_camera, read_frames, video_info

__all__ = ["Summary", "detect_files", "run_detection"]

_READERS, _WRITERS = 3, 2
# Images decoded ahead of the network, and images drawn but not yet saved; they bound the memory.
_READ_AHEAD, _WRITE_BEHIND = 6, 6
# Default batch size by type of device.
_BATCH_SIZE = {"cpu": 1, "cuda": 8}

_Report = Callable[[str], None]
_OnResult = Callable[[int, int | None], None]


@dataclass
class Summary:
    """Counts and times of a run.

    Attributes:
        images: number of images detected in now, including frames of videos.
        reused: number of files whose results an earlier run left.
        detections: number of detections found now.
        failures: one line for each file that could not be used, with the reason.
        seconds: time of the whole run, without loading the model.
        network_seconds: the part of ``seconds`` spent in the network.
    """

    images: int = 0
    reused: int = 0
    detections: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    network_seconds: float = 0.0


def detect_files(
    inputs: Sequence[str],
    model: str | os.PathLike,
    output: str | os.PathLike,
    options: DetectOptions | None = None,
    *,
    report: _Report = lambda _: None,
    on_result: _OnResult = lambda done, total: None,
) -> Summary:
    """Load a model and detect in files; this is ``fcos-d2 detect``.

    Args:
        inputs: images, videos, folders, glob patterns, and a camera as ``camera:0``.
        model: see ``Predictor.from_pretrained``.
        output: folder; results of an earlier run that are still valid are kept.
        options: default is ``DetectOptions()``.
        report: called with a line about each file that cannot be used, as soon as this is known.
        on_result: called with the number of results so far and the total, None if unknown.

    Raises:
        ValueError: for impossible options, or if no input leads to a file.
        OSError: if the model is missing or the output cannot be written.
    """
    options = options or DetectOptions()
    output = Path(output)
    files, problems = find_inputs(
        inputs, recursive=options.recursive, leave_out=output / "pictures"
    )
    for problem in problems:
        report(problem)
    cameras = sum(file.camera is not None for file in files)
    if cameras > 1:
        raise ValueError("one camera at a time: give each camera its own run and output")
    if options.max_frames is not None and not (cameras and options.max_frames > 0):
        raise ValueError("the number of frames is for a camera, such as camera:0, and at least 1")
    if not files:
        raise ValueError("there is nothing to detect in: no input leads to an image or video")
    predictor = Predictor.from_pretrained(
        model,
        options.weights,
        device=options.device,
        score_threshold=options.threshold,
        precision=options.precision,
        compile_mode=options.compile_mode,
        tile=options.tile,
        overlap=options.overlap,
    )
    summary = run_detection(predictor, files, output, options, report=report, on_result=on_result)
    summary.failures[:0] = problems
    return summary


def run_detection(
    predictor: Predictor,
    files: Sequence[InputFile],
    output: Path,
    options: DetectOptions | None = None,
    *,
    report: _Report = lambda _: None,
    on_result: _OnResult = lambda done, total: None,
) -> Summary:
    """Detect in files, except those that an earlier run with equal model and options finished.

    Writes ``detections.jsonl`` and ``pictures/``, and at the end ``detections.json`` with
    ``images.json``, and ``detections.csv``.

    Args:
        predictor: decides device, precision, tiles and score threshold.
        files: see :func:`~fcos_d2.detect.sources.find_inputs`.
        output, report, on_result: see :func:`detect_files`.
        options: ``classes``, ``batch_size``, ``formats``, ``draw`` and ``max_frames`` are used;
            default is ``DetectOptions()``.

    Raises:
        ValueError: for a class that the model does not know.
        OSError: if the output cannot be written.
    """
    options = options or DetectOptions()
    start, network_start = time.perf_counter(), predictor.network_seconds
    class_ids = _class_ids(predictor.class_names, options.classes)
    output.mkdir(parents=True, exist_ok=True)
    for name in ("detections.json", "images.json", "detections.csv"):
        (output / name).unlink(missing_ok=True)  # stale until this run finishes
    lines = output / "detections.jsonl"
    key = options_key(predictor, class_ids)
    drawn = output / "pictures" if options.draw else None
    done, dropped = keep_finished(lines, files, key, drawn)
    if dropped:
        report(
            f"{lines}: {dropped} results of other files, a changed file, an earlier camera, or "
            "another model or options are replaced"
        )
    total = None if any(file.is_video for file in files) else len(files)
    batch_size = options.batch_size or _BATCH_SIZE.get(predictor.device.type, 1)
    summary = Summary(reused=len(done))
    with open(lines, "a", encoding="utf-8") as stream:
        job = _Job(predictor, class_ids, batch_size, key, drawn, stream, summary, report)
        job.on_result = lambda: on_result(summary.images + summary.reused, total)
        job.detect([file for file in files if file.name not in done], options.max_frames)
    keep_finished(lines, files, key, drawn)  # sorts the lines, drops videos that failed
    if "json" in options.formats:
        write_coco(lines, output, predictor)
    if "csv" in options.formats:
        write_csv(lines, output / "detections.csv")
    summary.seconds = time.perf_counter() - start
    summary.network_seconds = predictor.network_seconds - network_start
    return summary


@dataclass
class _Job:
    """State of one run."""

    predictor: Predictor
    class_ids: list[int] | None
    batch_size: int
    options_key: str
    drawn: Path | None
    lines: TextIO
    summary: Summary
    report: _Report
    on_result: Callable[[], None] = lambda: None

    def detect(self, files: Sequence[InputFile], max_frames: int | None) -> None:
        """Detect in images, then in videos and cameras."""
        self.detect_images([file for file in files if not file.is_video])
        for file in files:
            if file.is_video:
                self.detect_video(file, max_frames)

    def detect_images(self, files: Sequence[InputFile]) -> None:
        in_network: deque[InputFile] = deque()

        def readable(readers: ThreadPoolExecutor) -> Iterator[PreparedImage]:
            prepare = lambda file: self.predictor.prepare(file.path)  # noqa: E731
            for file, future in map_ahead(readers, prepare, files, _READ_AHEAD):
                try:
                    image = future.result()
                except (OSError, ValueError) as error:
                    self.fail(file, error)
                    continue
                in_network.append(file)
                yield image

        def detected(readers: ThreadPoolExecutor) -> Iterator[tuple]:
            for image, found in self.predictor.stream(readable(readers), self.batch_size):
                yield in_network.popleft(), image, self.select_classes(found)

        def save(item: tuple[InputFile, PreparedImage, Detections]) -> None:
            file, image, found = item
            if self.drawn:
                save_image(found.draw(image.rgb[..., ::-1]), self.drawn / drawn_name(file))

        with thread_pool(_READERS) as readers, thread_pool(_WRITERS) as writers:
            results = map_ahead(writers, save, detected(readers), _WRITE_BEHIND, True)
            for (file, _, found), future in results:
                try:
                    future.result()
                except (OSError, ValueError) as error:
                    self.fail(file, f"{file.path} cannot be drawn: {error}")
                    continue
                self.add(file, found)

    def detect_video(self, file: InputFile, max_frames: int | None) -> None:
        """Detect in all frames of a video, or in a camera's frames until Ctrl-C or the limit."""
        try:
            if file.camera is None:
                self._detect_video_file(file)
            else:
                self._detect_camera(file, file.camera, max_frames)
        except (ImportError, OSError, ValueError) as error:
            self.fail(file, error)

    def _detect_video_file(self, file: InputFile) -> None:
        rate, announced = video_info(file.path)
        with closing(read_frames(file.path)) as frames:
            count = self._detect_frames(file, frames, rate)
        if count < announced:
            self.report(f"{file.path}: ended after {count} of {announced} announced frames")

    def _detect_camera(self, file: InputFile, camera: int, max_frames: int | None) -> None:
        with ctrl_c_as_event() as stopped:
            rate, endless = read_camera(camera)
            self.report(f"{file.path} is open; Ctrl-C ends it")
            with closing(endless):
                frames = itertools.takewhile(lambda _: not stopped.is_set(), endless)
                limited = itertools.islice(frames, max_frames)
                count = self._detect_frames(file, limited, rate, live=True)
        if not stopped.is_set() and count != max_frames:
            self.report(f"{file.path}: no more images after {count} frames: was it unplugged?")

    def _detect_frames(
        self, file: InputFile, frames: Iterator[np.ndarray], rate: float, live: bool = False
    ) -> int:
        """Detect in frames and draw them.

        Args:
            file: the video or camera.
            frames: (H, W, 3) uint8, BGR.
            rate: frames per second of the drawn video.
            live: keep the time of each frame, also in the drawn video.

        Returns:
            Number of frames.
        """
        video = VideoFile(self.drawn / drawn_name(file), rate) if self.drawn else None

        def save(item: tuple[PreparedImage, Detections, bool, float]) -> None:
            image, found, is_last, seconds = item
            if video:
                until = seconds if live else 0.0
                video.write(found.draw(image.rgb[..., ::-1]), is_last, until)

        count = 0
        try:
            # One thread each: a video is read and written in order.
            with thread_pool(1) as reader, thread_pool(1) as writer:
                detected = self._stream_frames(frames, reader)
                results = map_ahead(writer, save, detected, _WRITE_BEHIND, True)
                for (_, found, is_last, seconds), future in results:
                    future.result()
                    more = {"seconds": round(seconds, 3)} if live else {}
                    self.add(file, found, frame=count, last_frame=is_last, **more)
                    count += 1
        finally:
            if video:
                video.discard_part()
        return count

    def _stream_frames(
        self, frames: Iterator[np.ndarray], reader: ThreadPoolExecutor
    ) -> Iterator[tuple[PreparedImage, Detections, bool, float]]:
        """Read frames in ``reader`` and detect in them.

        Yields:
            The frame, its detections, True for the last frame, and seconds since the first frame.
        """
        times: deque[float] = deque()

        def prepare_next(_: int) -> tuple[float, PreparedImage] | None:
            frame = next(frames, None)
            return None if frame is None else (time.monotonic(), self.predictor.prepare(frame))

        def prepared() -> Iterator[PreparedImage]:
            for _, future in map_ahead(reader, prepare_next, itertools.count(), _READ_AHEAD):
                if future.result() is None:
                    return
                moment, image = future.result()
                times.append(moment)
                yield image

        start = None
        pairs = self.predictor.stream(prepared(), self.batch_size)
        for (image, found), is_last in mark_last(pairs):
            moment = times.popleft()
            start = moment if start is None else start
            yield image, self.select_classes(found), is_last, moment - start

    def select_classes(self, found: Detections) -> Detections:
        if self.class_ids is None:
            return found
        return found.select(np.isin(found.class_ids, self.class_ids))

    def add(self, file: InputFile, found: Detections, **more: Any) -> None:
        """Append a line and hand it to the operating system at once."""
        values = found.to_dict()
        del values["source"]
        identity = {"size": file.size, "mtime_ns": file.mtime_ns, "options": self.options_key}
        line = {"file": file.name, **more, **values, **identity}
        self.lines.write(json.dumps(line, ensure_ascii=False) + "\n")
        self.lines.flush()
        self.summary.images += 1
        self.summary.detections += len(found)
        self.on_result()

    def fail(self, file: InputFile, error: Exception | str) -> None:
        """Report a file that cannot be used."""
        text = str(error)
        line = text if str(file.path) in text else f"{file.path}: {text}"
        self.summary.failures.append(line)
        self.report(line)


def _class_ids(class_names: Sequence[str], wanted: Sequence[str] | None) -> list[int] | None:
    if wanted is None:
        return None
    for name in wanted:
        if name not in class_names:
            hint = nearest(name, class_names) or f"; the model has {', '.join(class_names)}"
            raise ValueError(f"the model knows no class {name!r}{hint}")
    return [i for i, name in enumerate(class_names) if name in wanted]
