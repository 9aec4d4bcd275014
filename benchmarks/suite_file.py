"""What a file of a folder ``suites`` may say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from hoptm_plugin.core.errors import ConfigurationError, FileFormatError
from hoptm_plugin.core.registry import validation_problems
from hoptm_plugin.settings import Published

FULL, MAIN = "full", "main"
# the published tables' and the studies', by name
PLACES = ("suites/*.yaml", "study_*/suites/*.yaml")
SUITES = {path.stem: path for place in PLACES for path in sorted(Path(__file__).parent.glob(place))}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSize(_Model):
    """A data set's size.

    Attributes:
        train: training images.
        classes: of them.
        image: (C, H, W) as networks see it.
    """

    train: PositiveInt
    classes: PositiveInt
    image: tuple[PositiveInt, PositiveInt, PositiveInt]


class Sweep(_Model):
    """One ``hoptm-bench run -m``: a row or several of the table.

    Attributes:
        title: what it measures.
        overrides: settings and lists of settings to sweep over.
        reported: what was published for all its runs, where no recipe says it.
        search: further lists of settings; beforehand, all their combinations are tried, and the one that does best on
            the validation split is taken.
        settings_of: the sweep whose search decides for this one as well.
        evaluates: sweeps whose synthetic sets are judged again by ``hoptm-bench eval -m``, with these overrides;
            nothing is then distilled.
        seeds: of those sets, the ones with these seeds; None: all.
        ipc: of those sets, the ones with as many images per class; None: all.
        tables: where its rows stand.
    """

    title: str
    overrides: list[str] = Field(min_length=1)
    reported: Published | None = None
    search: list[str] = Field(default_factory=list)
    settings_of: str | None = None
    evaluates: list[str] = Field(default_factory=list)
    seeds: list[int] | None = None
    ipc: int | None = None
    tables: list[str] = Field(default=[MAIN], min_length=1)


class Table(_Model):
    """A table of a suite.

    Attributes:
        title: what is compared.
        note: what to know when reading it.
        against: the row that all others are tested against; None takes each column's best.
    """

    title: str
    note: str | None = None
    against: str | None = None


class Variant(_Model):
    """The suite made smaller.

    Attributes:
        note: what is reduced.
        settings: beat those of the suite and, where they are kept, of its sweeps.
        sweeps: instead of the suite's, beating ``settings``; None keeps them, without what was reported.
        data: instead of the suite's.
    """

    note: str
    settings: list[str] = Field(default_factory=list)
    sweeps: list[Sweep] | None = Field(None, min_length=1)
    data: DataSize | None = None


class Suite(Table):
    """One file, which is also its table called "main".

    Attributes:
        data: size of the data set, for estimates where it is not at hand.
        settings: overrides common to all sweeps.
        search: overrides of the runs that sweeps try their settings with, beating all others.
        sweeps: in the order in which they run.
        tables: further ones, by the name that sweeps use.
        variants: by name, beside "full".
    """

    data: DataSize
    settings: list[str] = Field(default_factory=list)
    search: list[str] = Field(default_factory=list)
    sweeps: list[Sweep] = Field(min_length=1)
    tables: dict[str, Table] = Field(default_factory=dict)
    variants: dict[str, Variant] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _names_what_exists(self) -> Self:
        titles = Counter(sweep.title for sweep in self.sweeps)
        referring = any(sweep.settings_of or sweep.evaluates or sweep.search for sweep in self.sweeps)
        if referring and max(titles.values()) > 1:
            raise ValueError(f"sweeps are called alike: {', '.join(title for title in titles if titles[title] > 1)}")
        searched = {sweep.title for sweep in self.sweeps if sweep.search}
        for sweep in self.sweeps:
            if sweep.settings_of is not None and (sweep.search or sweep.settings_of not in searched):
                raise ValueError(f"{sweep.title}: settings_of names no sweep with a search, or it has one itself")
            if (sweep.seeds, sweep.ipc) != (None, None) and not sweep.evaluates:
                raise ValueError(f"{sweep.title}: seeds and ipc choose among sets to evaluate, and it evaluates none")
            if {each.title for each in self.sweeps if each.evaluates} & {*sweep.evaluates}:
                raise ValueError(f"{sweep.title}: evaluates sweeps that distil nothing themselves")
            unknown = [*({*sweep.evaluates} - {*titles}), *({*sweep.tables} - {MAIN, *self.tables})]
            if unknown:
                raise ValueError(f"{sweep.title}: names what does not exist: {', '.join(unknown)}")
        return self

    def named_tables(self) -> dict[str, Table]:
        """Return the tables in order, those without a sweep left out."""
        used = {name for sweep in self.sweeps for name in sweep.tables}
        return {name: table for name, table in {MAIN: self, **self.tables}.items() if name in used}

    def varied(self, name: str) -> Suite:
        """Return the suite that the variant is.

        Raises:
            ConfigurationError: no variant has that name, or its sweeps refer to what only others have.
        """
        if name == FULL:
            return self
        if name not in self.variants:
            raise ConfigurationError(f"--variant {name}: the suite has {', '.join([FULL, *self.variants])}")
        variant = self.variants[name]
        # in this order because Hydra's sweeper lets the last of a key win
        if variant.sweeps:
            changes = [(each, {"overrides": [*variant.settings, *each.overrides]}) for each in variant.sweeps]
        else:
            changes = [
                (each, {"overrides": [*each.overrides, *variant.settings], "reported": None}) for each in self.sweeps
            ]
        changed = {
            "sweeps": [sweep.model_copy(update=change) for sweep, change in changes],
            "note": "\n".join(filter(None, [self.note, variant.note])),
            "data": variant.data or self.data,
        }
        try:
            return Suite.model_validate({**dict(self), **changed})
        except ValidationError as error:
            raise ConfigurationError(
                [f"--variant {name}: {problem}" for problem in validation_problems(error)]
            ) from None


def load_suite(path: Path) -> Suite:
    """Read a suite.

    Raises:
        FileFormatError: not readable, or no suite.
    """
    try:
        return Suite.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = "; ".join(validation_problems(error)) if isinstance(error, ValidationError) else str(error)
        raise FileFormatError(f"{path}: not a suite: {what}") from None
