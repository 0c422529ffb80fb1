"""What a figure is here: the picture, the numbers it shows, and what to say where; and the style they share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itd.analysis.frames import short_names
from itd.errors import ResultError
from itd.files import unwritable, write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's colours without yellow: told apart by colour-blind readers. Line styles tell them apart in grey."""

STYLES = ("-", (0, (6, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = "osD^vPX"
FORMATS = (".png", ".svg", ".pdf")
DPI = 160
NARROW_IN = 4.4
"""The width of a narrow figure, which has one panel beside nothing: text stays legible on the width of a phone."""


@dataclass(frozen=True)
class Mark:
    """A point of a figure and what to say of it. axes: number of the panel. x, y: in the panel's data coordinates."""

    axes: int
    x: float
    y: float
    text: str


@dataclass(frozen=True, eq=False)
class Drawing:
    """A figure with the numbers it shows.

    name: of a file, such as `greedy`. title, caption: what it shows, with n. columns, rows: the numbers, for CSV.
    marks: points to say something at. A notebook shows it as a picture.
    """

    name: str
    title: str
    caption: str
    figure: Figure
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    marks: tuple[Mark, ...] = field(default=(), repr=False)

    def save(self, path: str | Path) -> None:
        """Writes the picture as PNG, SVG or PDF, by the path's suffix; ResultError where that cannot be."""
        save_figure(self.figure, path)

    def svg(self) -> str:
        """The picture as an `<svg>` element, its text as text."""
        from matplotlib import rc_context
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        out, before, dpi = io.StringIO(), self.figure.canvas, self.figure.dpi
        try:
            with rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
                # `savefig` would draw twice, the first time only for the layout, which drawing does as well
                FigureCanvasSVG(self.figure).print_svg(out, metadata={"Date": None})
        finally:
            self.figure.set_canvas(before)
            self.figure.dpi = dpi
        text = out.getvalue()
        return text[text.index("<svg") :]

    def drawn(self) -> tuple[str, list[tuple[float, float, str]]]:
        """`svg` and `placed_marks` of one drawing, which is what takes time."""
        svg = self.svg()
        return svg, self._placed()

    def placed_marks(self) -> list[tuple[float, float, str]]:
        """Each mark as (x, y, text) in fractions of the picture's width and height, from the top left corner."""
        self.figure.draw_without_rendering()  # places the panels
        return self._placed()

    def _placed(self) -> list[tuple[float, float, str]]:
        width, height = self.figure.get_size_inches() * self.figure.dpi
        placed = []
        for mark in self.marks:
            x, y = self.figure.axes[mark.axes].transData.transform((mark.x, mark.y))
            placed.append((float(x / width), float(1 - y / height), mark.text))
        return placed

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.figure.savefig(out, format="png")
        return out.getvalue()


def new_figure(width: float = 6.4, height: float = 4.2) -> Figure:
    """An empty figure of this size in inches; no global state of matplotlib is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def tidy(axes: Axes, grid: str = "both") -> None:
    """The frame that all panels share: no top and right spine, a light grid behind."""
    axes.grid(True, axis=grid, which="major", color="0.9", linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def name_panel(axes: Axes, name: str, n: int, pad_pt: float = 6) -> None:
    """A result's name and n above a narrow panel: on two lines, and smaller, where the name is long."""
    text = f"{name} (n = {n:,})"
    long = len(text) > 40
    size = min(9.0, 9 * 36 / max(len(name), 1)) if long else 9
    axes.set_title(f"{name}\nn = {n:,}" if long else text, fontsize=size, pad=pad_pt)


def within_percent(axes: Axes, which: str = "y") -> None:
    """Keeps an axis of percentages, x or y, inside 0 to 100. What stands on the edge is drawn whole all the same."""
    low, high = axes.get_xlim() if which == "x" else axes.get_ylim()
    (axes.set_xlim if which == "x" else axes.set_ylim)(max(0.0, low), min(100.0, high))
    for line in axes.lines:
        if np.size(line.get_xdata()):  # one of a legend alone has no place, and would be laid out at the corner
            line.set_clip_on(False)
    for collection in axes.collections:
        collection.set_clip_on(False)


def plain_log(axes: Axes) -> None:
    """A logarithmic x axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def legend_style() -> dict[str, Any]:
    """How legends look."""
    return {"fontsize": 8, "handlelength": 3.2, "facecolor": "white", "edgecolor": "none", "framealpha": 0.92}


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure as PNG, SVG or PDF, by the path's suffix; ResultError where that cannot be."""
    check_figure_path(path)
    out = io.BytesIO()
    figure.savefig(out, format=Path(path).suffix[1:].lower())
    try:
        write_atomic(path, out.getbuffer())
    except OSError as error:
        raise ResultError(unwritable(f"the figure {path}", error)) from error


def check_figure_path(path: str | Path) -> None:
    """ResultError for a name that says no format."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ResultError(f"cannot write a figure as {path}; its name must end in {', '.join(FORMATS)}")


def shown_names(paths: Sequence[str]) -> list[str]:
    """`short_names` as matplotlib shows them: a dollar sign begins no formula."""
    return [name.replace("$", r"\$") for name in short_names(paths)]


def grid(
    panels: int, *, columns: int, width: float, height: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of some panels, and the panels in order.

    Args:
        panels: how many.
        columns: at most as many beside one another.
        width: of a panel, in inches.
        height: of a panel, in inches.
        sharex: all panels have one x axis.
        sharey: all panels have one y axis.
    """
    across = min(columns, panels)
    down = -(-panels // across)
    figure = new_figure(max(4.2, width * across), height * down + 0.3)
    share = {"sharex": "all" if sharex else "none", "sharey": "all" if sharey else "none"}
    every = list(figure.subplots(down, across, squeeze=False, **share).flat)  # type: ignore[call-overload]
    for spare in every[panels:]:
        figure.delaxes(spare)
    return figure, every[:panels]
