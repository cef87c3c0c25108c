"""Training curves from detectron2's metrics.json."""

import json
from pathlib import Path

__all__ = ["plot_curves", "read_metrics"]


def read_metrics(path: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Read the logged values of a training.

    A line truncated by a killed run is skipped. If an iteration was logged twice, as after a
    resume, the later value counts.

    Args:
        path: metrics.json.

    Returns:
        Series of (iteration, value) by metric name.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if the file holds no metrics.
    """
    series: dict[str, dict[int, float]] = {}
    for line in Path(path).read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        for name, value in row.items():
            if name != "iteration" and isinstance(value, int | float):
                series.setdefault(name, {})[row["iteration"]] = value
    if not series:
        raise ValueError(f"{path} holds no metrics")
    return {name: sorted(values.items()) for name, values in series.items()}


def plot_curves(metrics_file: str | Path, output: str | Path) -> None:
    """Draw losses, learning rate and AP over iterations into a PNG file.

    Args:
        metrics_file: metrics.json of a run.
        output: path of the new file.

    Raises:
        ImportError: without matplotlib.
        OSError: if a file cannot be read or written.
        ValueError: if there is nothing to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series = read_metrics(metrics_file)
    panels = [
        ("loss", [name for name in series if name.endswith("loss") or name.startswith("loss_")]),
        ("learning rate", [name for name in series if name == "lr"]),
        ("box AP (%)", [n for n in series if n.split("/")[-1] in ("AP", "AP50", "AP75")]),
    ]
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in sorted(names):
            iterations, values = zip(*series[name], strict=True)
            axis.plot(iterations, values, marker="o" if len(values) < 3 else "", label=name)
        axis.set(title=title, xlabel="iteration", ylim=(0, None))
        axis.grid(alpha=0.3)
        if names:
            axis.legend(frameon=False)
    figure.savefig(output, dpi=110)
