"""Writes TABLES.md and the study's figure from the committed cards; nobody types a number into them.

    python benchmarks/tables.py [--take FOLDER]

FOLDER is what ``suite.py --out`` was given: the cards of its runs are taken first, instead of the committed ones. A
test makes page and picture anew and fails where they differ from what is committed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import study_claims
import study_sections as sections
from study_cards import RESULTS, Study, studies, take
from study_figure import draw
from suite_file import MAIN
from suite_tables import markdown

from hoptm_plugin.core.errors import FileFormatError, HopTMError
from hoptm_plugin.storage.files import write_text

PAGE, FIGURE = Path(__file__).parent / "TABLES.md", RESULTS / "study.svg"
HEAD = """# Tables of the study

Made by `python benchmarks/tables.py` from the cards in `benchmarks/results`; a test makes it anew. What it says is in
[README.md](README.md).

## The paper's claims

A claim holds where the mean of the paired differences is above 0 and p, corrected by Holm's method within its family
(HoP-TM against MTT; against random images; the parts; lambda; the quantile; other architectures), is below 0.05. Each
pair is two distillations of one seed, each the mean of its networks. "Not shown" is no proof of the contrary: with so
few pairs only large differences can be shown, as the intervals say.

"""


def page(found: Sequence[Study]) -> str:
    """Return the text of TABLES.md."""
    tables = {(study.name, name): each for study in found for name, each in study.tables.items()}
    results = study_claims.outcomes(study_claims.read_claims(), tables)
    parts = [HEAD, study_claims.markdown(results, {study.name: study.data for study in found})]
    for study in found:
        parts += [f"\n{markdown(study.suite.table(name), each, level=2)}" for name, each in study.tables.items()]
        parts += [sections.balanced(study)] if sections.uneven(study) else []
        parts.append(sections.published(study))
    parts += [sections.chosen(found), sections.checks(found), sections.compute(found), sections.pilots()]
    return "".join([*parts, sections.commands(found)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Write page and figure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="take the cards of the runs there first")
    options = parser.parse_args(arguments)
    try:
        if options.take is not None:
            take(options.take)
        found = studies()
        if not found:
            raise FileFormatError(f"{RESULTS}: holds no cards of the study; take some with --take FOLDER")
        write_text(PAGE, page(found))
        write_text(FIGURE, draw([(study.data, study.tables[MAIN]) for study in found]))
    except HopTMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{PAGE}\n{FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
