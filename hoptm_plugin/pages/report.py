"""``hoptm-bench report``: run folders in, one page out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from hoptm_plugin.cards.card import FILE_NAME, Card
from hoptm_plugin.cli.streams import say
from hoptm_plugin.core.errors import FileFormatError, StorageError, UserError
from hoptm_plugin.engine.significance import Test
from hoptm_plugin.loggers import METRICS
from hoptm_plugin.pages.content import Run
from hoptm_plugin.pages.curves import Curve, read_curves
from hoptm_plugin.pages.page import render
from hoptm_plugin.pages.pictures import trimmed
from hoptm_plugin.runs.grid import Tiles, read_grid
from hoptm_plugin.storage.files import sha256, write_text
from hoptm_plugin.tables.compare import compare, refuse_card
from hoptm_plugin.tables.scores import ScoreName

LARGEST_CONFIG, MEMORY = 2**20, 2**30  # of a file; of all pictures
MOST_NAMED, REMEDY = 5, "name another file with -o FILE"


def write_report(
    paths: Sequence[Path], output: Path, *, title: str, real_images: bool,
    scores: ScoreName | Literal["all"] | None = None, against: str | None = None, tests: Test | None = "welch",
) -> None:  # fmt: skip
    """Write the page on the runs in ``paths`` to ``output``, whole or not at all; say how large it is.

    Args:
        paths: run folders, cards, or folders to search.
        output: the page; its folder exists.
        title: of the page.
        real_images: whether pictures of real training images are shown.
        scores: whose columns are added to the tables.
        against: the row that all others are tested against; None takes each column's best.
        tests: how rows are tested; None: not at all.

    Raises:
        UserError: there is no card, one cannot be read, or the page cannot be written.
    """
    _check(output)
    comparison = compare(paths, scores=scores, against=against, tests=tests)
    cards = [(file, card) for file, card in comparison.cards if isinstance(file, Path)]
    refuse_card(output, cards)
    runs = [read_run(file, card, MEMORY // (2 * len(cards))) for file, card in cards]
    page = render(runs, comparison.tables, title, real_images)
    try:
        write_text(output, page.html)
    except StorageError as error:
        raise UserError(f"{output}: {error.reason}; {REMEDY}") from None
    if page.real:
        names = "; ".join(page.real[:MOST_NAMED])
        more = f"; and {len(page.real) - MOST_NAMED} more" if len(page.real) > MOST_NAMED else ""
        say(f"real training images are shown of {names}{more}; --no-real-images leaves them out")
    count = f"{len(cards)} run{'' if len(cards) == 1 else 's'}"
    print(f"{output}: {count}, {output.stat().st_size / 1e6:.1f} MB")  # noqa: T201


def _check(output: Path) -> None:
    """Refuse what cannot be the page, before any work is done."""
    try:
        is_folder, has_folder = output.is_dir(), output.parent.is_dir()
    except OSError as error:  # such as a name that is too long
        raise UserError(f"{output}: {error.strerror}; {REMEDY}") from None
    if is_folder:
        raise UserError(f"{output}: is a folder; {REMEDY}")
    if output.exists() and output.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{output}: exists already and is no page; name a file that ends in .html with -o FILE")
    if not has_folder:
        raise UserError(f"{output}: there is no folder {output.parent}; make it, or {REMEDY}")


def read_run(file: Path, card: Card, most: int = MEMORY) -> Run:
    """Return what lies beside a card; what is missing or damaged is named, not fatal.

    Args:
        file: the card's.
        card: as it was read.
        most: bytes of memory for each of its pictures.
    """
    if file.name != FILE_NAME:  # a card on its own: what lies beside it may be another run's
        return Run(file, card, missing=("the run folder: a card on its own",))
    folder = file.parent
    missing: list[str] = []
    inside = folder.resolve()
    for name in (CONFIG, METRICS, INITIAL_GRID, GRID):
        if not (folder / name).resolve().is_relative_to(inside):  # a link must not put another file into the page
            return Run(file, card, missing=(f"{name} is a link that leads out of the run folder, so none is read",))
    others = [name for name in (CONFIG, METRICS, INITIAL_GRID, GRID) if _is_another(folder / name, card)]
    missing += [f"{name} is left out: it is not the file that {FILE_NAME} names (their SHA-256 differ)"
                for name in others]  # fmt: skip
    config = None if CONFIG in others else _config(folder / CONFIG, missing)
    curves: dict[str, Curve] = {}
    if METRICS in others:
        pass
    elif (folder / METRICS).is_file():
        try:
            curves, remarks = read_curves(folder / METRICS)
            missing += remarks
        except OSError as error:
            missing.append(f"{METRICS} cannot be read: {error.strerror}")
    else:
        missing.append(f"no {METRICS}")
    sized = card.ipc is not None  # a run on the whole training split has no images of its own
    initial, distilled = (
        _tiles(folder / name, missing, most) if sized and name not in others else None for name in (INITIAL_GRID, GRID)
    )
    return Run(file, card, config, curves, initial, distilled, tuple(missing))


def _is_another(path: Path, card: Card) -> bool:
    """Tell whether a file has changed since its run's card was written; of older cards nobody knows."""
    try:
        return path.name in card.artefacts and path.is_file() and sha256(path) != card.artefacts[path.name]
    except FileFormatError:  # unreadable, which is said where it is read
        return False


def _config(path: Path, missing: list[str]) -> dict[str, Any] | None:
    if not path.is_file():
        missing.append(f"no {path.name}")
        return None
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError("too large")
        config = read_config(path)
        return config
    except (OSError, ValueError, RecursionError, FileFormatError):
        missing.append(f"{path.name} is no readable configuration")
        return None


def _tiles(path: Path, missing: list[str], most: int) -> Tiles | None:
    if not path.is_file():
        missing.append(f"no {path.name}")
        return None
    try:
        return trimmed(read_grid(path), most)
    except FileFormatError:
        missing.append(f"{path.name} is no picture that hoptm-bench wrote")
        return None
