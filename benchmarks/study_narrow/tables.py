"""Writes TABLES.md and the study's figure from the committed cards; nobody types a number into them.

    python benchmarks/study_narrow/tables.py [--take FOLDER]

FOLDER is what ``suite.py --out`` was given: the cards of its runs are taken first, instead of the committed ones. A
test makes page and picture anew and fails where they differ from what is committed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # of the modules of the suites, and of this study

from study_narrow import cards, claims, rows
from study_narrow.figure import draw
from suite_file import MAIN
from suite_tables import markdown

from hoptm_plugin.core.errors import FileFormatError, HopTMError
from hoptm_plugin.engine.significance import RULES
from hoptm_plugin.storage.files import read_json, write_text

TEMPLATE, PAGE, FIGURE, CHECKS = "TABLES.md.j2", HERE / "TABLES.md", HERE / "study.svg", HERE / "checks.json"


def page(found: Sequence[cards.Study]) -> str:
    """Return the text of TABLES.md."""
    environment = Environment(loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True, keep_trailing_newline=True)  # fmt: skip
    tables = {(study.name, name): each for study in found for name, each in study.tables.items()}
    data = {study.name: study.data for study in found}
    spent = [rows.compute(study) for study in found]
    pilots, pilot_seconds = rows.pilots(cards.pilots())
    return environment.get_template(TEMPLATE).render(
        rule=RULES["paired"], claims=claims.rows(claims.outcomes(claims.read_claims(), tables), data), studies=found,
        rows=rows, markdown=markdown, checks=rows.checks(read_json(CHECKS, "study's checks"), data), pilots=pilots,
        pilot_minutes=pilot_seconds / 60, compute=[row for row, _ in spent],
        hours=(sum(seconds for _, seconds in spent) + pilot_seconds) / 3600,
        devices=sorted({card.cost.device for study in found for card in (*study.cards, *study.searched)}),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Write page and figure; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="FOLDER", help="take the cards of the runs there first")
    options = parser.parse_args(arguments)
    try:
        if options.take is not None:
            cards.take(options.take)
        found = cards.studies()
        if not found:
            raise FileFormatError(f"{cards.RESULTS}: holds no cards of the study; take some with --take FOLDER")
        write_text(PAGE, page(found))
        write_text(FIGURE, draw([(study.data, study.tables[MAIN]) for study in found]))
    except HopTMError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{PAGE}\n{FIGURE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
