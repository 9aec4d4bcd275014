"""The section on single classes: the rare ones first."""

from __future__ import annotations

from collections.abc import Sequence

from hoptm_plugin.cards.by_class import rare_first, recall
from hoptm_plugin.cards.evaluation import Calibration, Confusion, Evaluation
from hoptm_plugin.pages import figures
from hoptm_plugin.pages.content import (
    Cell,
    Drawing,
    Folded,
    NamedRun,
    Part,
    Row,
    Section,
    Table,
    percent,
)
from hoptm_plugin.pages.svg import Drawer

MOST_CLASSES, MOST_CONFUSIONS = 20, 15
NO_PREDICTION, CORNER = "no prediction", "True \\ predicted"


def class_section(runs: Sequence[NamedRun], drawer: Drawer) -> Section:
    """Return recall per class, confusion and calibration of every run and network."""
    parts = []
    for named in runs:
        tables: list[Table] = []
        drawings: list[Drawing] = []
        folded: list[Folded] = []
        notes: list[str] = []
        for evaluation in named.run.card.evaluations:
            tables += [_recalls(named, evaluation), *_confusion(named, evaluation, notes)]
            drawings += _reliability(named, evaluation, drawer)
            folded += _single(named, evaluation)
        parts.append(Part(named.name, f"classes-{named.key}", tuple(tables), tuple(notes), tuple(drawings),
                          folded=tuple(folded)))  # fmt: skip
    introduction = (
        "Tested images of a class that are classified rightly (recall), rarest class first; then which classes are "
        "taken for which (confusion), and how far the networks' confidence can be believed: the expected calibration "
        "error (ECE) is the mean distance between confidence and accuracy.",
    )
    return Section("Single classes", "classes", introduction, (_overview(runs),), parts=tuple(parts))


def _overview(runs: Sequence[NamedRun]) -> Table:
    rows = []
    for named in runs:
        for evaluation in named.run.card.evaluations:
            classes = named.run.card.dataset.classes
            present = rare_first(evaluation.support)
            lowest = min(present, key=lambda label: (evaluation.recall_per_class[label] or 0, label))
            cells = [
                Cell(
                    percent(*recall(evaluation, label)), f"class {classes[label]}; {evaluation.support[label]:,} images"
                )
                for label in (present[0], lowest)
            ]
            metrics = (evaluation.balanced_accuracy, evaluation.macro_f1, evaluation.macro_auroc, evaluation.ece)
            cells += [Cell("-" if each is None else percent(each.mean, each.std)) for each in metrics]
            rows.append(Row(f"{named.name}; {evaluation.network}", tuple(cells), f"classes-{named.key}"))
    columns = ("Recall of the\nrarest class", "Lowest recall\nof any class", "Balanced\naccuracy", "Macro F1",
               "Macro\nAUROC", "ECE")  # fmt: skip
    return Table("All runs, in percent: mean ± std over networks", "Run; network", columns, tuple(rows), "numbers")


def _recalls(named: NamedRun, evaluation: Evaluation) -> Table:
    card = named.run.card
    beside = {f"{card.title}, EMA": card.averaged, "Random subset": card.random_subset}
    sets = {card.title: evaluation}
    sets |= {
        name: each for name, others in beside.items() for each in others or () if each.network == evaluation.network
    }
    rows = []
    for label in rare_first(evaluation.support):
        cells = [Cell(percent(*recall(each, label))) for each in sets.values()]
        rows.append(Row(card.dataset.classes[label], (Cell(f"{evaluation.support[label]:,}"), *cells)))
    if any(each.ece is not None for each in sets.values()):
        errors = [Cell("-" if each.ece is None else percent(each.ece.mean, each.ece.std)) for each in sets.values()]
        rows.append(Row("Calibration error (ECE)", (Cell("-"), *errors)))
    caption = f"Recall in percent on {evaluation.network}"
    return Table(caption, "Class", (f"{card.split.capitalize()} images", *sets), tuple(rows), "numbers", named.name)


def _confusion(named: NamedRun, evaluation: Evaluation, notes: list[str]) -> list[Table]:
    """Return the mean confusion matrix, or the worst confusions where there are many classes."""
    if evaluation.confusion is None:
        lacking = "confusion matrix" if evaluation.calibration else "confusion matrix and no calibration"
        why = "too large for the card" if evaluation.calibration else "an older card"
        notes.append(f"{evaluation.network}: no {lacking} ({why}).")
        return []
    classes, networks = named.run.card.dataset.classes, len(evaluation.confusion)
    present = [label for label, count in enumerate(evaluation.support) if count]
    shares = {
        (truth, predicted): sum(matrix[truth][predicted] for matrix in evaluation.confusion)
        / (networks * evaluation.support[truth])
        for truth in present
        for predicted in range(len(classes))
    }
    mean = f"on {evaluation.network}, mean of {networks} network{'s' if networks > 1 else ''}"
    if len(classes) > MOST_CLASSES:
        wrong = [(share, pair) for pair, share in shares.items() if pair[0] != pair[1] and share > 0]
        worst = sorted(wrong, key=lambda each: (-each[0], each[1]))[:MOST_CONFUSIONS]
        notes.append(f"{evaluation.network}: {len(classes)} classes, so the most frequent confusions stand for all.")
        rows = [Row(classes[t], (Cell(classes[p]), Cell(f"{100 * share:.1f}"))) for share, (t, p) in worst]
        caption = f"Most frequent confusions {mean}: percent of the class's images"
        return [Table(caption, "True class", ("Predicted as", "Percent"), tuple(rows), "", named.name)] if rows else []
    lost = {truth: 1 - sum(shares[truth, predicted] for predicted in range(len(classes))) for truth in present}
    some_lost = any(share > 1e-9 for share in lost.values())
    rows = []
    for truth in present:
        row = [shares[truth, predicted] for predicted in range(len(classes))] + [lost[truth]] * some_lost
        rows.append(Row(classes[truth], tuple(Cell(f"{100 * share:.0f}", shade=round(10 * share)) for share in row)))
    columns = (*classes, *[NO_PREDICTION] * some_lost)
    caption = f"Confusion {mean}: percent of the true class"
    return [Table(caption, CORNER, columns, tuple(rows), "confusion", named.name)]


def _reliability(named: NamedRun, evaluation: Evaluation, drawer: Drawer) -> list[Drawing]:
    measured = [each for each in evaluation.calibration or () if each is not None]
    if not measured or evaluation.ece is None:
        return []
    lines = [_points([each]) for each in measured]
    error = percent(evaluation.ece.mean, evaluation.ece.std)
    name = f"Reliability diagram of {named.name} on {evaluation.network}: ECE {error} percent"
    svg = figures.reliability(drawer, lines, _points(measured), name)
    caption = f"Reliability on {evaluation.network}: light lines are single networks, the strong one all together; "
    return [Drawing(svg, f"{caption}ECE {error} percent.")]


def _points(measured: Sequence[Calibration]) -> list[tuple[float, float]]:
    """Return (confidence, accuracy) of every bin that is not empty, over all networks' images together."""
    if len({len(each.counts) for each in measured}) > 1:
        measured = measured[:1]  # bins of different widths cannot be put together
    points = []
    for number in range(len(measured[0].counts)):
        bins = [(each.counts[number], each.confidence[number], each.accuracy[number]) for each in measured]
        filled = [(count, mean, right) for count, mean, right in bins if mean is not None and right is not None]
        total = sum(count for count, _, _ in filled)
        if total:
            x = sum(count * mean for count, mean, _ in filled) / total
            points.append((x, sum(count * right for count, _, right in filled) / total))
    return points


def _single(named: NamedRun, evaluation: Evaluation) -> list[Folded]:
    """Return recall, calibration and confusion of every network on its own."""
    recalls = evaluation.recalls()
    if not recalls:
        return []
    where, classes = f"{named.name}, {evaluation.network}", named.run.card.dataset.classes
    rows = [
        Row(classes[label], tuple(Cell(percent(each[label])) for each in recalls))
        for label in rare_first(evaluation.support)
    ]
    accuracies = evaluation.accuracy.values
    rows.append(Row("Accuracy", tuple(Cell(percent(value)) for value in accuracies)))
    if evaluation.ece is not None:
        rows.append(Row("Calibration error (ECE)", tuple(Cell(percent(value)) for value in evaluation.ece.values)))
    columns = tuple(f"Network {number}" for number in range(1, len(recalls) + 1))
    found = [Folded(f"Every network on {evaluation.network}: recall and calibration", (
        Table("Recall in percent of every network", "Class", columns, tuple(rows), "numbers", where),
    ))]  # fmt: skip
    if len(classes) <= MOST_CLASSES:
        tables = tuple(
            _counts(matrix, classes, evaluation.support, f"Network {number}: confusion in images", where)
            for number, matrix in enumerate(evaluation.confusion or (), start=1)
        )
        found.append(Folded(f"Every network on {evaluation.network}: confusion matrices", tables, bulky=True))
    return found


def _counts(matrix: Confusion, classes: Sequence[str], support: Sequence[int], caption: str, where: str) -> Table:
    rows = []
    for name, counts, total in zip(classes, matrix, support, strict=True):
        if total:
            rows.append(Row(name, tuple(Cell(str(count), shade=round(10 * count / total)) for count in counts)))
    return Table(caption, CORNER, tuple(classes), tuple(rows), "confusion", where)
