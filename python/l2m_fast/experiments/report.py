"""The page of a folder of runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from l2m_fast.experiments import figures, records, tables
from l2m_fast.experiments.files import InputError
from l2m_fast.experiments.page import Block, Heading, Paragraph, Picture, html, markdown
from l2m_fast.experiments.paper import FIGURES
from l2m_fast.experiments.results import Results, read_results


def write_report(folder: Path, out: Path) -> list[Path]:
    """Writes the page, and beside it its figures as PNG and the same as report.md.

    Args:
        folder: Of the records.
        out: The page, named *.html.

    Returns:
        The paths of what was written.

    Raises:
        InputError: The name is another, the records cannot be read or compared, or nothing can be written there.
    """
    if out.suffix != ".html":
        msg = f"the page must be named *.html (got {out})"
        raise InputError(msg)
    of_tasks = read_results(folder)
    records.check_writable(out.parent)
    blocks = [*_introduction(of_tasks), *(block for results in of_tasks for block in _section(results))]
    contents = {out: html(blocks).encode(), out.with_name("report.md"): markdown(blocks).encode()}
    contents |= {out.with_name(block.file): block.png for block in blocks if isinstance(block, Picture)}
    try:
        for path, content in contents.items():
            path.write_bytes(content)
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror}"
        raise InputError(msg) from error
    return list(contents)


def _introduction(of_tasks: list[Results]) -> Iterator[Block]:
    yield Heading(1, "Learn2Mix and other methods on equal loaders")
    yield Paragraph(
        "Within a seed all methods have the same data, initial weights, loader and number of steps in an epoch. ± and bands "
        "are 95 % t-intervals of the mean over seeds. E is the budget of a run; given in epochs, it is as many seconds as "
        "classical training took, and given in seconds, as many epochs as every run reached. Seconds are those of training: "
        "taking batches, and computing. Testing is not counted; a warm-up is, where nothing else is said. Between epochs the "
        "newest model counts."
    )
    makers: dict[str, list[str]] = {}
    for results in of_tasks:
        record, config = results.record, results.record["config"]
        versions = " · ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
        maker = (
            f"commit {record.get('commit') or 'unknown'} · {record.get('gpu') or record.get('cpu', 'unknown CPU')} · "
            f"threads of torch: {config['threads']} · {versions}"
        )
        makers.setdefault(maker, []).append(results.task)
    for maker, tasks in makers.items():
        yield Paragraph(maker if len(makers) == 1 else f"{', '.join(tasks)}: {maker}", "about")
    yield Heading(2, "Overview")
    yield tables.overview(of_tasks)


def _section(results: Results) -> Iterator[Block]:
    record, config = results.record, results.record["config"]
    name = records.file_name(results.task).replace("=", "-")
    yield Heading(2, results.task)
    yield from _warnings(results)
    sizes = config["class_sizes"]
    rows = f"{sum(sizes)} training rows in {len(sizes)} classes of {min(sizes)} to {max(sizes)}"
    ((unit, amount),) = config["budget"].items()
    yield Paragraph(
        f"{record.get('description', '')}; {rows} (seed {config['seed']}); data: {config['data_source']}. Preset "
        f"{config['preset']}: {amount:g} {unit}, {config['steps_per_epoch']} steps an epoch, batches of {config['batch_size']}, "
        f"{config['optimizer']}, learning rate {config['learning_rate']:g}, mixing rate {config['mixing_rate']:g}, on "
        f"{config['device']}. Seeds: {_seeds(results)}.",
        "about",
    )
    sampled = any(len(runs) > 1 for runs in results.methods.values())
    if sampled:
        for sentence in tables.verdicts(results) if tables.OURS in results.methods else []:
            yield Paragraph(sentence)
    scale = "percent" if results.classifies else "squared error, lower is better"
    yield Heading(3, f"{_title(results.name_of('test'))} ({scale})")
    yield tables.over_time(results, "test")
    if results.task in FIGURES:
        yield Paragraph(
            "The paper's figures are on an RTX 3090 and each method's own loader, with the spread as printed; its E is in "
            "seconds for classification and in epochs for the rest.",
            "about",
        )
    yield Heading(3, f"{_title(results.name_of('worst class'))} ({scale})")
    yield tables.over_time(results, "worst class")
    yield Picture(f"{name}-curves.png", f"{results.task}: error curves", figures.curves(results))
    if not sampled:
        yield Paragraph("One seed: no intervals and no tests, since it says nothing about chance.")
    elif tables.OURS in results.methods:
        yield from _tests(results)
    yield Heading(3, "Time to accuracy")
    yield Paragraph("Until the mean test error over seeds is there for the first time; - where it never is.", "about")
    yield tables.time_to_accuracy(results)
    yield Heading(3, "Where the time goes")
    yield tables.seconds(results)
    yield Heading(3, f"{'Accuracy' if results.classifies else 'Error'} on each class at E")
    yield Picture(f"{name}-classes.png", f"{results.task}: each method on each class", figures.class_map(results))
    moving = figures.moving(results)
    if moving:
        yield Heading(3, "Class proportions")
        picture = figures.proportions(results, moving)
        yield Picture(f"{name}-proportions.png", f"{results.task}: class shares of the batches", picture)


def _warnings(results: Results) -> Iterator[Block]:
    learned = results.learned()
    wanted = f"{results.record['learned']:g}{' %' if results.classifies else ''}"
    if learned is None:
        yield Paragraph(
            f"Classical training was not run: whether this comparison counts is not known (test error {wanted}).",
            "warning",
        )
    elif not learned:
        yield Paragraph(
            f"Classical training did not reach the test error {wanted} that was asked for beforehand: this comparison does "
            "not count.",
            "warning",
        )
    for name, runs in results.methods.items():
        diverged = [str(run.seed) for run in runs if run.diverged]
        if diverged:
            yield Paragraph(f"The loss of {name} was not finite in the end (seeds {', '.join(diverged)}).", "warning")


def _tests(results: Results) -> Iterator[Block]:
    yield Heading(3, "Learn2Mix against each other method")
    yield Paragraph(
        "Advantage: how much lower the mean error of Learn2Mix is. g: Hedges' effect size, positive where Learn2Mix is "
        "better. p: Welch's t-test, Holm-corrected over the methods of each question; it does not use that runs of a seed "
        f"share their data and initial weights. Ahead or behind is said below {tables.LEVEL}.",
        "about",
    )
    yield tables.contrast_table(results)


def _seeds(results: Results) -> str:
    counts = {name: len(runs) for name, runs in results.methods.items()}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return "unfinished, " + ", ".join(f"{name} {count}" for name, count in counts.items())


def _title(text: str) -> str:
    return text[0].upper() + text[1:]
