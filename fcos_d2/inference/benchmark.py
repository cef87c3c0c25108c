"""Speed of a model on this machine, in total and by part."""

import io
import itertools
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from tabulate import tabulate

from ..modeling.postprocess import detect_images
from ..utils.device import check_precision, choose_device
from ..utils.doctor import machine_facts, peak_memory_mib
from ..version import __version__
from .model_folder import locate_model
from .predictor import Predictor, PreparedImage

__all__ = ["Report", "Row", "Timing", "format_report", "parse_size", "run_benchmark"]

# Sides of the decoded JPEG, relative to the network's input.
_JPEG_SCALE = 2
# Rounds before the measurement, in which a GPU chooses its algorithms and raises its clock.
_WARM_UP = {"cpu": 1, "cuda": 5}
_MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """Milliseconds per image, over all runs."""

    median: float
    min: float


@dataclass(frozen=True)
class Row:
    """Measurements of one case.

    Attributes:
        precision: see :class:`Predictor`.
        batch_size: images per batch.
        height, width: size of the network's input in pixels, before padding.
        read: decoding and resizing of a JPEG of twice the sides by ``Predictor.prepare``.
        network: backbone and head, from a normalized batch to their maps.
        postprocess: top-k and NMS, from maps to boxes.
        end_to_end: ``Predictor.detect``, from resized images to results on the CPU: normalization,
            network, post-processing and both transfers, but not ``read``.
        images_per_second: from the median of ``end_to_end``.
        detections: number of detections per image, on which the time of NMS depends.
        peak_memory_mib: most memory that PyTorch allocated on the GPU; None on a CPU.
    """

    precision: str
    batch_size: int
    height: int
    width: int
    read: Timing
    network: Timing
    postprocess: Timing
    end_to_end: Timing
    images_per_second: float
    detections: float
    peak_memory_mib: float | None


@dataclass(frozen=True)
class Report:
    """Measurements with their circumstances.

    Attributes:
        machine: hardware and versions.
        model: config, weights and size of the model.
        runs: number of measurements of each case.
        rows: one row for each case that fits into the memory.
        process_memory_mib: most memory of the whole process; None where it is unknown.
        notes: remarks needed to interpret the rows.
    """

    machine: dict[str, str | int]
    model: dict[str, str | int]
    runs: int
    rows: list[Row]
    process_memory_mib: int | None
    notes: list[str]

    def to_dict(self) -> dict:
        """Convert to plain values for JSON."""
        return asdict(self)


def parse_size(text: str) -> tuple[int, int]:
    """Parse "512x640" into height and width.

    Raises:
        ValueError: for any other form.
    """
    match = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is not a size: give HEIGHTxWIDTH in pixels, such as 512x640")
    return int(match[1]), int(match[2])


def run_benchmark(
    folder_or_config: str | os.PathLike,
    weights: str | None = None,
    *,
    batch_sizes: Sequence[int] = (1,),
    sizes: Sequence[tuple[int, int]] | None = None,
    precisions: Sequence[str] = ("fp32",),
    compile_mode: str = "",
    device: str | None = None,
    threads: int | None = None,
    runs: int = 10,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Time all combinations of batch size, input size and precision.

    In each of ``runs`` rounds every case is measured once, so that a machine that slows down
    affects all cases alike.

    Args:
        folder_or_config, weights: see ``Predictor.from_pretrained``; a config without weights gets
            random weights.
        batch_sizes: numbers of images per batch.
        sizes: (height, width) of the network's input; default is the config's test size.
        precisions, compile_mode, device: see ``Predictor.from_pretrained``.
        threads: number of PyTorch's threads on the CPU; None leaves the number unchanged.
        runs: number of measurements of each case.
        on_round: called with the number of finished rounds, including warm-up, and the total.

    Raises:
        FileNotFoundError: if the config or the weights do not exist.
        ValueError: for impossible options, or if no case fits into the memory.
    """
    _check_numbers(batch_sizes, sizes, threads, runs)
    chosen = choose_device(device)
    precisions = [check_precision(precision, chosen) for precision in precisions]
    with _threads(threads):
        predictor, model_facts, notes = _load(folder_or_config, weights, chosen, compile_mode)
        sizes = sizes or [_test_size(predictor.cfg)]
        cases = [
            _Case(predictor, precision, batch_size, size)
            for precision, size, batch_size in itertools.product(precisions, sizes, batch_sizes)
        ]
        notes += _measure(cases, _WARM_UP.get(chosen.type, 1), runs, on_round)
        if not cases:
            raise ValueError("no case fits into the memory of the GPU: try smaller ones")
        machine = machine_facts(chosen) | {"fcos_d2": __version__}
    rows = [case.row() for case in cases]
    return Report(machine, model_facts, runs, rows, peak_memory_mib(), notes)


def format_report(report: Report) -> str:
    """Format machine, model, a table in milliseconds per image, and the notes."""
    facts = [*report.machine.items(), *report.model.items(), ("runs", report.runs)]
    if report.process_memory_mib is not None:
        facts.append(("peak memory", f"{report.process_memory_mib} MiB, of the process"))
    headers = [
        *("precision", "batch", "size", "read", "network", "post", "end to end", "(fastest)"),
        *("images/s", "detections", "GPU MiB"),
    ]
    rows = []
    for row in report.rows:
        medians = [row.read, row.network, row.postprocess, row.end_to_end]
        rows.append(
            [
                *(row.precision, row.batch_size, f"{row.height}x{row.width}"),
                *(f"{timing.median:.2f}" for timing in medians),
                f"{row.end_to_end.min:.2f}",
                f"{row.images_per_second:.1f}",
                f"{row.detections:.0f}",
                "" if row.peak_memory_mib is None else f"{row.peak_memory_mib:.0f}",
            ]
        )
    if all(row.peak_memory_mib is None for row in report.rows):
        headers, rows = headers[:-1], [row[:-1] for row in rows]
    table = tabulate(rows, headers, tablefmt="github", disable_numparse=True, stralign="right")
    notes = [f"note: {note}" for note in report.notes]
    return "\n".join(
        [
            tabulate(facts, tablefmt="plain", disable_numparse=True),
            "",
            "Milliseconds per image, medians:",
            table,
            *([""] if notes else []),
            *notes,
        ]
    )


class _Case:
    """One combination of options with its inputs and its measurements so far."""

    def __init__(
        self, predictor: Predictor, precision: str, batch_size: int, size: tuple[int, int]
    ):
        height, width = size
        cfg = predictor.cfg.clone()
        cfg.defrost()
        cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(size), max(size)
        self.predictor = Predictor(predictor.model, cfg, predictor.class_names, precision=precision)
        self.precision, self.batch_size, self.size = precision, batch_size, size
        self.name = f"{precision}, batch {batch_size}, {height}x{width}"
        self.jpeg = _jpeg(_JPEG_SCALE * height, _JPEG_SCALE * width)
        rgb = np.ascontiguousarray(_scene(height, width))
        tensor = torch.from_numpy(rgb).permute(2, 0, 1).contiguous()
        self.images = [PreparedImage(tensor, rgb, None)] * batch_size
        self.forget()

    def forget(self) -> None:
        parts = ("read", "network", "postprocess", "end_to_end")
        self.times: dict[str, list[float]] = {part: [] for part in parts}
        self.detections = 0.0
        self.peak_memory: int | None = None

    def measure(self) -> None:
        """Measure each part once."""
        device = self.predictor.device
        self.times["read"].append(_timed(lambda: self.predictor.prepare(self.jpeg), device))
        self._measure_model()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        found: list = []
        took = _timed(lambda: found.extend(self.predictor.detect(self.images)), device)
        self.times["end_to_end"].append(took / self.batch_size)
        self.detections = sum(map(len, found)) / self.batch_size
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
            self.peak_memory = max(self.peak_memory or 0, peak)

    @torch.inference_mode()
    def _measure_model(self) -> None:
        """Measure the network, then post-processing of its predictions."""
        model, device = self.predictor.model, self.predictor.device
        images = model.preprocess_image([{"image": image.tensor} for image in self.images])
        found: list = []
        with self.predictor.autocast():
            took = _timed(lambda: found.append(model.predict(images.tensor)), device)
            self.times["network"].append(took / self.batch_size)
            options, coder = model.postprocess, model.head.box_coder
            took = _timed(
                lambda: detect_images(found[0], images.image_sizes, options, coder), device
            )
            self.times["postprocess"].append(took / self.batch_size)

    def row(self) -> Row:
        timings = {
            name: Timing(statistics.median(times), min(times)) for name, times in self.times.items()
        }
        return Row(
            precision=self.precision,
            batch_size=self.batch_size,
            height=self.size[0],
            width=self.size[1],
            **timings,
            images_per_second=1000 / timings["end_to_end"].median,
            detections=self.detections,
            peak_memory_mib=None if self.peak_memory is None else self.peak_memory / _MIB,
        )


def _measure(cases: list[_Case], warm_up: int, runs: int, on_round) -> list[str]:
    """Measure in rounds; removes cases that do not fit into the GPU's memory, returns notes."""
    notes = []
    for i in range(warm_up + runs):
        if i == warm_up:
            for case in cases:
                case.forget()
        for case in list(cases):
            try:
                case.measure()
            except torch.cuda.OutOfMemoryError:
                cases.remove(case)
                notes.append(f"{case.name}: the memory of the GPU is too small, left out")
                torch.cuda.empty_cache()
        on_round(i + 1, warm_up + runs)
    return notes


def _timed(function: Callable[[], object], device: torch.device) -> float:
    """Milliseconds until all work of ``function`` is done, also on a GPU."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return 1000 * (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_numbers(batch_sizes, sizes, threads: int | None, runs: int) -> None:
    for name, numbers in (
        ("a batch size", batch_sizes),
        ("a side", [side for size in sizes or () for side in size]),
        ("the number of threads", [1 if threads is None else threads]),
        ("the number of runs", [runs]),
    ):
        wrong = [number for number in numbers if number < 1]
        if wrong:
            raise ValueError(f"{name} must be at least 1, got {wrong[0]}")


def _load(
    folder_or_config: str | os.PathLike,
    weights: str | None,
    device: torch.device,
    compile_mode: str,
) -> tuple[Predictor, dict[str, str | int], list[str]]:
    """Load a model; returns also facts about the model, and notes."""
    config, found = locate_model(folder_or_config, weights)
    notes = []
    if found is None:
        predictor = Predictor.with_random_weights(config, device=device, compile_mode=compile_mode)
        notes.append("random weights: NMS has little to do, so post-processing seems too fast")
    else:
        predictor = Predictor.from_pretrained(
            folder_or_config, weights, device=device, compile_mode=compile_mode
        )
    count = sum(parameter.numel() for parameter in predictor.model.parameters())
    facts: dict[str, str | int] = {"config": str(config), "weights": found or "random"}
    facts["parameters"] = count
    if compile_mode:
        facts["compiled"] = compile_mode
    return predictor, facts, notes


def _test_size(cfg) -> tuple[int, int]:
    """Height and width of the largest image that the test size of a config allows."""
    longest = cfg.INPUT.MAX_SIZE_TEST
    return cfg.INPUT.MIN_SIZE_TEST or longest, longest


def _scene(height: int, width: int) -> np.ndarray:
    """(H, W, 3) uint8: smooth with some noise, so that its JPEG is like that of a photo."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 1), dtype=np.int16)
    return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


def _jpeg(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_scene(height, width)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
