"""The learning curve of a run: what each epoch left, on images that it was not trained on. A file of its own."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from itd.checked import read_text
from itd.errors import DataError
from itd.files import write_atomic
from itd.text import one_line
from itd.training.run_files import disk_errors

if TYPE_CHECKING:
    from itd.analysis.figures import Drawing


@dataclass(frozen=True)
class CurvePoint:
    """After one epoch. epoch: how many are done. images: seen so far. loss: mean of the epoch's steps. n: held-out
    images. top1: share of them classified rightly. test: which they are, a part of their fingerprint and "/k" for
    each k-th."""

    epoch: int
    images: int
    loss: float
    n: int
    top1: float
    test: str = ""


@dataclass(frozen=True)
class Curve:
    """A run's file of points; one that goes on after a kill keeps those of the epochs that are done."""

    path: Path

    def begin(self, test: str, resumed: bool) -> None:
        """Before the first step of a run: a curve of another run goes, or is refused where this one goes on.

        test: as in `CurvePoint`. Raises DataError for a file that is no curve, or of other held-out images.
        """
        if not resumed:
            with disk_errors(self.path):
                self.path.unlink(missing_ok=True)
        others = {point.test for point in self.points()} - {test}
        if others and test:
            raise DataError(
                f"{self.path} was measured on other images than `test` and `test_every` name now; go on with those, or "
                "move the curve away"
            )

    def add(self, point: CurvePoint) -> None:
        """Writes a point behind those of the epochs before it; what stood at its epoch or beyond is dropped.

        Raises DataError where it cannot be written.
        """
        kept = [p for p in self.points() if p.epoch < point.epoch]
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)])
        writer.writeheader()
        writer.writerows(asdict(p) for p in (*kept, point))
        with disk_errors(self.path):
            write_atomic(self.path, text.getvalue())

    def points(self) -> list[CurvePoint]:
        """In the order of the epochs; none where there is no file. DataError for a file that is no curve."""
        if not self.path.exists():
            return []
        try:
            return [_point(row) for row in csv.DictReader(io.StringIO(read_text(self.path), newline=""))]
        except (KeyError, TypeError, ValueError, OverflowError, csv.Error) as error:  # BadFile is a ValueError
            raise DataError(f"{self.path} is not a learning curve, or only a part of one; move it away") from error
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {one_line(error)}; move it away") from error


def _point(row: Mapping[str, str]) -> CurvePoint:
    numbers = (int(row["epoch"]), int(row["images"]), float(row["loss"]), int(row["n"]), float(row["top1"]))
    return CurvePoint(*numbers, row.get("test") or "")


def curves_figure(curves: Mapping[str, list[CurvePoint]]) -> Drawing:
    """Held-out top-1 of several networks by the training images seen. curves: name -> its points.

    Raises DataError where no network has any.
    """
    from itd.analysis.figures.drawing import COLOURS, MARKERS, STYLES, Drawing, Mark, legend_style, new_figure, tidy

    drawn = {name: points for name, points in curves.items() if points}
    if not drawn:
        raise DataError(
            f"there is no learning curve of {', '.join(curves)}; `itd train --test DIR` writes one beside the weights"
        )
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot()
    marks, rows = [], []
    for number, (name, points) in enumerate(drawn.items()):
        seen, top1 = [p.images for p in points], [100 * p.top1 for p in points]
        axes.plot(
            seen, top1, color=COLOURS[number % len(COLOURS)], linestyle=STYLES[number % len(STYLES)],
            marker=MARKERS[number % len(MARKERS)], markersize=4, label=f"{name}: {top1[-1]:.1f}%, n = {points[-1].n:,}",
        )  # fmt: skip
        marks += [
            Mark(0, x, y, f"{name}, epoch {p.epoch}: {y:.1f}%") for x, y, p in zip(seen, top1, points, strict=True)
        ]
        rows += [{"model": name, **asdict(p)} for p in points]
    axes.set_xlabel("training images seen")
    axes.set_ylabel("held-out top-1 accuracy (%)")
    axes.set_ylim(bottom=0)
    tidy(axes)
    axes.legend(loc="lower right", **legend_style())
    caption = "Top-1 on images that were not trained on, after each epoch."
    return Drawing("curves", "Learning curves", caption, figure, tuple(rows[0]), tuple(rows), tuple(marks))
