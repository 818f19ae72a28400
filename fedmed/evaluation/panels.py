"""Small panels under one title, which all pictures are made of: their look, and the file that they become.

Matplotlib is imported when something is drawn, and only its file writer: no window, no global state. Colours are those
of Okabe & Ito (2008), which the colour-blind can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, ORANGE, GREEN, GREY, INK = "#0072B2", "#D55E00", "#009E73", "#999999", "#333333"
COLUMNS = 4
_STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}


@contextmanager
def grid(
    path: Path,
    panels: int,
    title: str,
    *,
    sharex: bool = False,
    sharey: bool = False,
    square: bool = False,
    height: float = 2.5,
    width: float = 2.55,
) -> Iterator[list[Axes]]:
    """Small panels under one title, at least one; the PNG is written when the block ends."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = max(panels, 1)
    columns = min(shown, COLUMNS if shown <= COLUMNS or shown > COLUMNS + 1 else shown)
    lines = math.ceil(shown / columns)
    with rc_context(_STYLE):  # type: ignore[arg-type]  # it asks for a literal type of every key
        figure = Figure(figsize=(max(width * columns, 5.0), height * lines + 0.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        cells = figure.subplots(lines, columns, sharex=sharex, sharey=sharey, squeeze=False).ravel()
        for axes in cells[shown:]:
            axes.set_visible(False)
        for axes in cells[:shown]:
            if square:
                axes.set_aspect("equal")
        yield list(cells[:shown])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5)
        figure.savefig(path, metadata={"Software": None})  # the same figures give the same bytes


def points_of(points: Sequence[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    """The steps and losses of those points at which a loss is told."""
    known = [(step, loss) for step, loss in points if loss is not None]
    return [step for step, _ in known], [loss for _, loss in known]
