"""The report of a folder of runs: what it says, in which order, and the files it is written to."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from l2m_experiments import figures, tables
from l2m_experiments.errors import InputError
from l2m_experiments.page import Block, Heading, Picture, Text, html, markdown
from l2m_experiments.records import Record, read_all
from l2m_experiments.results import BASELINE, OURS, Axis, Measure, TaskResults, by_task

_MEASURES: tuple[Measure, ...] = ("test_error", "worst_class_error")


def report(runs: Path, out: Path) -> list[Path]:
    """Writes report.html (one file, nothing else needed), report.md and the pictures that it shows.

    Args:
        runs: Folder of `l2m-experiments run`.
        out: Folder of the files; made where there is none.

    Returns:
        Paths of the page, the Markdown file and the pictures.

    Raises:
        InputError: There are no runs, one cannot be read, they cannot be compared, or a file cannot be written.
    """
    records = read_all(runs)
    blocks = list(_blocks(records, by_task(records)))
    pictures = [picture for block in blocks if isinstance(block, tuple) for picture in block]
    files = {
        "report.html": html(blocks).encode(),
        "report.md": markdown(blocks).encode(),
        **{picture.file: picture.png for picture in pictures},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        msg = f"the report cannot be written to {out}: {error.strerror}"
        raise InputError(msg) from error
    return [out / name for name in files]


def _blocks(records: Sequence[Record], results: Sequence[TaskResults]) -> Iterator[Block]:
    lines = figures.lines_of(results)
    yield Heading(1, "Learn2Mix and other methods, on equal loaders")
    yield Text(
        f"{len(records)} runs of {len(lines)} methods on {len(results)} tasks. Every method draws its batches with the same "
        "loader (but for learn2mix-authors, whose batches are formed as the authors do), and within a task and seed all begin "
        "with the same data and the same weights; seeds are all that chance is judged by."
    )
    if different := tables.differing(records):
        yield Text(
            f"The runs were not all made with the same {', '.join(different)}; see the last table. Times then need not be "
            "comparable.",
            warning=True,
        )
    yield tables.overview(results)
    matrices = (tables.verdict_matrix(results, measure) for measure in _MEASURES)
    yield from filter(None, (tables.verdict_counts(results), *matrices))
    for task in results:
        yield from _of_task(task, lines)
    yield Heading(2, "About these runs")
    yield tables.refused()
    yield tables.environment(records)


def _of_task(task: TaskResults, lines: dict[str, figures.Line]) -> Iterator[Block]:
    first = task.first
    config = first.config
    yield Heading(2, task.name)
    yield Text(
        f"{first.description}. Data: {first.source}. Batches of {config.batch_size}, {config.optimizer}, learning rate "
        f"{config.learning_rate:g}, mixing rate {config.mixing_rate:g}; budget "
        + (f"{config.epochs} epochs." if config.budget == "epochs" else f"{config.seconds:g} seconds.")
    )
    if not task.counts:
        yield Text(_why_not(task), warning=True)
    if task.subject != OURS and task.subject is not None:
        yield Text(f"{OURS} itself was not run here: the comparisons are those of {task.subject} with each method.")
    yield tuple(_pictures(task, lines))
    asked: list[tuple[Measure, Sequence[Axis]]] = [
        *(("test_error", (axis,)) for axis in task.axes),
        ("worst_class_error", task.axes),
    ]
    yield from (tables.errors(task, *one) for one in asked)
    yield from filter(None, (tables.comparisons(task, *one) for one in asked))
    yield from filter(None, (tables.time_to_target(task), tables.loader_share(task)))
    yield tables.costs(task)


def _why_not(task: TaskResults) -> str:
    if task.target is None:
        return (
            f"THE COMPARISONS OF THIS TASK DO NOT COUNT: {BASELINE} training was not run, so nothing shows that there was "
            "anything to learn in this budget."
        )
    kind = task.first.kind
    unit = "percent of wrong classes" if kind == "classification" else "mean squared error"
    return (
        f"THE COMPARISONS OF THIS TASK DO NOT COUNT: the final test error of {BASELINE} training ({unit}) was to be at most "
        f"{tables.number(task.first.learned, kind)}, as stated beforehand; found: {tables.number(task.target, kind)}."
    )


def _pictures(task: TaskResults, lines: dict[str, figures.Line]) -> Iterator[Picture]:
    band = "mean over seeds with its 95 % band; the dotted line is where the tables end"
    for measure, name in zip(_MEASURES, ("test", "worst-class"), strict=True):
        what = tables.name_of(measure, task.first.kind)
        yield _picture(task, name, figures.curves(task, measure, lines), f"{what} on {task.name}: {band}.")
    if drawn := figures.proportions(task):
        yield _picture(task, "proportions", drawn, f"Class proportions on {task.name}: mean over seeds.")
    yield _picture(
        task, "classes", figures.classes(task), f"Classes of {task.name} after {task.epochs} epochs: mean over seeds."
    )


def _picture(task: TaskResults, name: str, figure: Figure, caption: str) -> Picture:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return Picture(f"{re.sub(r'[^A-Za-z0-9.=-]+', '_', task.name)}-{name}.png", png.getvalue(), caption)
