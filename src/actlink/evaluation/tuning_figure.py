"""A sweep as a picture: six figures of merit against delay, a line per setting. Law: draws what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actlink.errors import MissingPackageError
from actlink.evaluation.results import Totals
from actlink.evaluation.tune import Outcome, Setting, sequence

PANELS: tuple[tuple[str, Callable[[Totals], float | None]], ...] = (
    ("success", lambda sums: sums.success.rate if sums.success else sums.mean_return),
    ("starved control steps (share)", lambda sums: sums.starved / sums.control_steps if sums.control_steps else None),
    ("jump between chunks, p99", lambda sums: sums.seam_p99),
    ("jerk, mean", lambda sums: sums.jerk_mean),
    ("time to finish (s)", lambda sums: sums.finish_mean_s),
    ("traffic (Mbit/s, raw)", lambda sums: sums.mbit_s),
)
MARKS = "osD^vP*X<>hd"


def draw(outcomes: Sequence[Outcome], path: Path, *, title: str = "") -> Path:
    """The picture of ``outcomes`` as ``path`` (.svg or .png)."""
    try:
        import matplotlib
    except ImportError:
        raise MissingPackageError("figures need matplotlib: pip install 'actlink[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings, delays = sequence(outcomes)
    # Fixed identifiers and no date: the same figures give the same file.
    style: Any = {"svg.hashsalt": "actlink", "svg.fonttype": "none", "font.size": 8}
    with pyplot.rc_context(style):
        picture, axes = pyplot.subplots(2, 3, figsize=(11, 6.2), layout="constrained")
        for place, (name, value) in zip(axes.flat, PANELS, strict=True):
            for number, setting in enumerate(settings):
                _line(place, outcomes, setting, value, number, intervals=name == "success")
            place.set_title(name, fontsize=9)
            place.set_xlabel("delay (ms)")
            place.set_xticks(delays)
            place.grid(alpha=0.3)
        if all(each.run.results.totals.success is not None for each in outcomes):
            axes.flat[0].set_ylim(-0.03, 1.03)
        lines, labels = axes.flat[0].get_legend_handles_labels()
        picture.legend(lines, labels, loc="outside lower center", ncols=3, frameon=False)
        if title:
            picture.suptitle(title, fontsize=10)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
        pyplot.close(picture)
    return path


def _line(
    place: Any,
    outcomes: Sequence[Outcome],
    setting: Setting,
    value: Callable[[Totals], float | None],
    number: int,
    *,
    intervals: bool,
) -> None:
    own = [(each.cell.delay_ms, each.run.results.totals) for each in outcomes if each.cell.setting == setting]
    found = [(delay_ms, y, sums) for delay_ms, sums in own if (y := value(sums)) is not None]
    if not found:
        return
    x = [each[0] for each in found]
    look: Any = {"marker": MARKS[number % len(MARKS)], "color": f"C{number % 10}", "markersize": 4, "linewidth": 1.2}
    place.plot(x, [each[1] for each in found], label=str(setting), **look)
    rates = [sums.success for _, _, sums in found]
    if intervals and all(rate is not None for rate in rates):
        low, high = zip(*(rate.interval for rate in rates if rate is not None), strict=True)
        place.fill_between(x, low, high, color=look["color"], alpha=0.08, linewidth=0)
