"""Commands without settings: their arguments by argparse, and what they call."""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NoReturn

from hoptm_plugin.cli.help import PROGRAM
from hoptm_plugin.cli.streams import fail, say, tell

LISTED = "run folders, cards, or folders to search"
MOST_NAMED = 5  # runs, in one line


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line as any other mistake is said."""

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        fail(f"{message}\nSee {self.prog} --help", 2)


def path_of(text: str) -> Path:
    """Return the path of an argument; ``~`` is the home folder, as of a text that no shell has expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; give a path")
    path = Path(text)
    return path.expanduser() if text.startswith("~/") and not path.exists() else path


def _list(arguments: list[str]) -> None:
    from hoptm_plugin.cli.listing import KINDS, print_listing

    parser = Parser(
        f"{PROGRAM} list", description="Show what can be chosen: settings groups, methods, and parts by kind."
    )
    parser.add_argument("kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    print_listing(parser.parse_args(arguments).kind)


def _compare(arguments: list[str]) -> None:
    parser = Parser(
        f"{PROGRAM} compare",
        description="Lay the result cards of several runs out as one table: methods by data set, IPC and network. "
        "Runs that were not judged alike never share a column. Differences of distillation seeds are tested (Holm).",
    )
    parser.add_argument("paths", nargs="+", type=path_of, help=LISTED)
    parser.add_argument("--format", default="terminal", choices=["terminal", "markdown", "latex", "csv", "json"])
    parser.add_argument("--output", type=path_of, metavar="FILE", help="write the tables there, print nothing")
    parser.add_argument("--best", nargs="?", type=_count, const=1, metavar="N",
                        help="of each method with several settings, show the N best rows (1 unless told)")  # fmt: skip
    parser.add_argument("--audit", type=path_of, metavar="FILE.svg",
                        help="print what audits of them measured, and draw privacy against accuracy there")  # fmt: skip
    _how_to_compare(parser)
    options = parser.parse_args(arguments)
    from hoptm_plugin.cli.tables import show_comparison
    from hoptm_plugin.tables.compare import compare

    comparison = compare(
        options.paths, against=options.against, tests=_test(options), scores=options.scores, metric=options.metric,
        sort=options.sort, best=options.best,
    )  # fmt: skip
    show_comparison(comparison, options.format, options.output)
    if options.audit is not None:
        from hoptm_plugin.cli.audited import show_audits

        show_audits(comparison, options.audit)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a number of rows, 1 or more")
    return int(text)


def _how_to_compare(parser: Parser) -> None:
    metrics = ("accuracy", "balanced_accuracy", "macro_auroc", "macro_f1", "ece", "worst_recall")
    parser.add_argument("--metric", default="accuracy", choices=metrics,
                        help="what is tabled and tested; accuracy unless told, which hides rare classes")  # fmt: skip
    parser.add_argument("--sort", default="name", choices=["name", "result"],
                        help="rows by name, as unless told, or the best first")  # fmt: skip
    parser.add_argument("--scores", choices=["lrs", "ars", "all"],
                        help="add columns of DD-Ranking's label-robust and augmentation-robust scores, or name the "
                        "runs that are missing for them")  # fmt: skip
    tests = parser.add_mutually_exclusive_group()
    tests.add_argument("--against", metavar="METHOD", help="test against this row, not against each column's best")
    tests.add_argument("--no-tests", action="store_true", help="test nothing, and mark nothing as best")
    parser.add_argument("--paired", action=argparse.BooleanOptionalAction, default=True,
                        help="test the means of distillation seeds in pairs where both rows have the same seeds, as is "
                        "done unless told otherwise; or always by Welch's test")  # fmt: skip


def _test(options: Namespace) -> Literal["welch", "paired"] | None:
    return None if options.no_tests else "paired" if options.paired else "welch"


def _report(arguments: list[str]) -> None:
    parser = Parser(
        f"{PROGRAM} report",
        description="Write one self-contained HTML page on several runs: tables, curves, images, cost, settings.",
    )
    parser.add_argument("paths", nargs="+", type=path_of, help=LISTED)
    parser.add_argument("-o", "--output", type=path_of, default=Path("report.html"), metavar="FILE",
                        help="the page; report.html unless told")  # fmt: skip
    parser.add_argument("--title", default="Dataset distillation: report")
    parser.add_argument("--no-real-images", action="store_true",
                        help="leave out every picture of real training images")  # fmt: skip
    _how_to_compare(parser)
    options = parser.parse_args(arguments)
    from hoptm_plugin.pages.report import report

    written = report(
        options.paths, options.output, title=options.title, real_images=not options.no_real_images,
        scores=options.scores, against=options.against, tests=_test(options), metric=options.metric,
        sort=options.sort,
    )  # fmt: skip
    derived = "images that are derived from real training images"
    for what, names in (("real training images", written.real), (derived, written.derived)):
        if names:
            more = f"; and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            named = "; ".join(names[:MOST_NAMED]) + more
            say(f"{what} are shown of {named}; --no-real-images leaves them out")
    count = f"{written.runs} run{'' if written.runs == 1 else 's'}"
    tell(f"{written.path}: {count}, {written.size / 1e6:.1f} MB")


def _runs(arguments: list[str]) -> None:
    parser = Parser(
        f"{PROGRAM} runs",
        description="List run folders: state, the settings in which they differ, result, and when they were worked on.",
    )
    parser.add_argument("paths", nargs="*", metavar="FOLDER|KEY=VALUE",
                        help="folders to search, runs unless told; and settings that the listed runs have, by their "
                        "names in the list or the ends of their dotted paths, as dataset=digits kappa.start=1e-6; a "
                        "folder with = in its name is given as ./NAME")  # fmt: skip
    parser.add_argument("--state", choices=["finished", "running", "interrupted", "failed", "damaged"])
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_const", dest="form", const="json", help="a record for each run, as JSON")
    form.add_argument("--csv", action="store_const", dest="form", const="csv", help="likewise as CSV")
    options = parser.parse_intermixed_args(arguments)
    filters = [each for each in options.paths if "=" in each.partition("/")[0]]
    folders = [path_of(each) for each in options.paths if each not in filters] or [Path("runs")]
    from hoptm_plugin.cli.tables import show_runs
    from hoptm_plugin.tables.states import list_runs

    show_runs(list_runs(folders, *filters, state=options.state), options.form)


def _export(arguments: list[str]) -> None:
    parser = Parser(
        f"{PROGRAM} export",
        description="Write a distilled set into a folder that others can use without this software, with a data-set "
        "card on its source, licence, recipe, accuracy and checksums.",
    )
    parser.add_argument("synthetic", type=path_of, help="a run folder, or a .safetensors file")
    formats = {
        "medmnist": "npz in MedMNIST layout", "folder": "PNG images", "safetensors": "the native file",
        "ddranking": "tensors for DD-Ranking",
    }  # fmt: skip
    parser.add_argument("--format", required=True, choices=formats,
                        help="; ".join(f"{name}: {what}" for name, what in formats.items()))  # fmt: skip
    parser.add_argument("-o", "--output", type=path_of, metavar="FOLDER", help="a new folder; NAME-FORMAT unless told")
    parser.add_argument("--source", metavar="TEXT", help="where the original data come from, if the run does not know")
    parser.add_argument("--licence", metavar="TEXT", help="the original data's licence, if the run does not know")
    options = parser.parse_args(arguments)
    from hoptm_plugin.cli.exported import print_exported
    from hoptm_plugin.exchange.export import export

    print_exported(
        export(options.synthetic, options.format, options.output, source=options.source, licence=options.licence)
    )


PLAIN: Final[dict[str, Callable[[list[str]], None]]] = {
    "list": _list, "compare": _compare, "report": _report, "runs": _runs, "export": _export,
}  # fmt: skip
