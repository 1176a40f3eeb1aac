"""The report of a folder of runs: a page, the same as Markdown, a CSV file and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from l2m_experiments import cells, figures, tables
from l2m_experiments.page import Block, Details, Heading, Picture, Text, html, markdown, pictures, plain
from l2m_experiments.records import Record, read_studies
from l2m_experiments.results import BASELINE, OURS, Axis, Measure, TaskResults, by_task
from l2m_experiments.user_input import InputError


def report(folder: Path, out: Path) -> list[Path]:
    """Write the report of all runs in a folder or packed file.

    Args:
        folder: Folder of `l2m-experiments run`, or with packed files; or one packed file.
        out: Folder of the files; created if it does not exist.

    Returns:
        Paths of report.html (one self-contained page), report.md, summary.csv and the figures.

    Raises:
        InputError: There are no runs, one cannot be read, they cannot be compared, or a file cannot be written.
    """
    studies = {study: (records, by_task(records)) for study, records in read_studies(folder).items()}
    blocks = list(_blocks(studies))
    files = {
        "report.html": html(blocks).encode(),
        "report.md": markdown(blocks).encode(),
        "summary.csv": tables.summary({study: results for study, (_, results) in studies.items()}).encode(),
        **{picture.file: picture.png for picture in pictures(blocks)},
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (out / name).write_bytes(content)
    except OSError as error:
        msg = f"the report cannot be written to {out}: {error.strerror}"
        raise InputError(msg) from error
    return [out / name for name in files]


def headline(records: Sequence[Record]) -> str:
    """Return the first table of the report as plain text.

    Raises:
        InputError: The runs cannot be compared.
    """
    return plain(tables.headline(by_task(records)))


def _blocks(studies: Mapping[str, tuple[list[Record], list[TaskResults]]]) -> Iterator[Block]:
    yield Heading(1, "Learn2Mix and other methods on the same loader")
    for study, (records, results) in studies.items():
        if study:
            yield Heading(2, study)
        yield from _study(f"{study}-" if study else "", records, results)
    yield Details("Refused combinations of method and task", (tables.refused(),))


def _study(prefix: str, records: Sequence[Record], results: Sequence[TaskResults]) -> Iterator[Block]:
    lines = figures.lines_of(results)
    yield tables.headline(results)
    for task in results:
        if not task.valid:
            yield Text(_why_invalid(task), warning=True)
    if drawn := figures.overview(results, lines):
        caption = (
            "Advantage in percent of the rival's error, with the 95 % interval of the difference. Filled: significant "
            "after Holm's correction."
        )
        yield Picture(f"{prefix}overview.png", figures.png(drawn), caption)
    if averages := tables.over_tasks(results):
        yield averages
    asked: list[tuple[Measure, Axis]] = [
        ("test_error", Axis.EPOCHS), ("test_error", Axis.WARM_UP), ("worst_class_error", Axis.EPOCHS),
    ]  # fmt: skip
    for measure, axis in asked:
        if text := tables.findings(results, measure, axis):
            yield Text(text)
    yield Text(
        f"Runs: {len(records)}; methods: {len(lines)}; tasks: {len(results)}. Every method draws its batches from the same loader"
        + (", except learn2mix-authors, which forms batches as the authors do" if "learn2mix-authors" in lines else "")
        + ". The runs of a task and seed start with the same data and weights. Intervals and tests are over seeds."
    )
    if different := tables.differing(records):
        text = f"The runs differ in {', '.join(different)} (see the environment below), so their times may not be comparable."
        yield Text(text, warning=True)
    yield Details("Curves, class proportions and errors of the classes", tuple(_pictures(prefix, results, lines)))
    yield Details("What was run", (tables.overview(results), tables.environment(records)))
    for task in results:
        yield Details(f"{task.name}: every method", tuple(_task(task)))


def _pictures(prefix: str, results: Sequence[TaskResults], lines: dict[str, figures.Line]) -> Iterator[Picture]:
    caption = "Mean over seeds, with 95 % bands for the methods of the first table. Dotted: end of the comparison."
    yield Picture(f"{prefix}curves.png", figures.png(figures.curves(results, lines)), caption)
    if drawn := figures.proportions(results):
        caption = "Percent of the batch by class over epochs, mean over seeds; from the first class (dark) to the last (light)."
        yield Picture(f"{prefix}proportions.png", figures.png(drawn), caption)
    caption = "Each class at the end, mean over seeds."
    yield Picture(f"{prefix}classes.png", figures.png(figures.classes(results)), caption)


def _task(task: TaskResults) -> Iterator[Block]:
    first = task.first
    config = first.config
    yield Text(
        f"{first.description}. Data: {first.source}. Batches of {config.batch_size}, {config.optimizer}, learning rate "
        f"{config.learning_rate:g}, mixing rate {config.mixing_rate:g}; budget "
        + (f"{config.epochs} epochs." if config.budget == "epochs" else f"{config.seconds:g} seconds.")
    )
    if task.subject == BASELINE:
        yield Text(f"{OURS} was not run here: each method is compared with {BASELINE}.")
    asked: list[tuple[Measure, Sequence[Axis]]] = [("test_error", (axis,)) for axis in task.axes]
    if "macro_error" in task.measures:
        asked.append(("macro_error", (Axis.EPOCHS,)))
    asked.append(("worst_class_error", task.axes))
    for measure, axes in asked:
        yield tables.errors(task, measure, axes)
        if compared := tables.comparisons(task, measure, axes):
            yield compared
    yield from filter(None, (tables.time_to_target(task), tables.loader_share(task)))
    yield tables.costs(task)


def _why_invalid(task: TaskResults) -> str:
    problem = f"The comparisons on {task.name} are not valid: "
    if task.target is None:
        return (
            f"{problem}{BASELINE} training was not run, so nothing shows that the task can be learned in this budget."
        )
    kind = task.first.kind
    unit = "percent of misclassified rows" if kind == "classification" else "mean squared error"
    bound, found = (cells.number(value, kind) for value in (task.first.learned, task.target))
    return f"{problem}the final test error of {BASELINE} training ({unit}) must be at most {bound} (got {found})."
