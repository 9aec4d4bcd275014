"""The search for settings that comes before a suite's runs: all candidates on the validation split, the best taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from suite_file import Sweep
from suite_plan import Job, Plan

from hoptm_plugin.cards.tuning import Tuning
from hoptm_plugin.core.errors import ConfigurationError, UserError
from hoptm_plugin.runs.composition import as_override, expand
from hoptm_plugin.runs.tuning import read_tuning

# a search's runs never look at the test split
JUDGED_ON = "protocol.split=validation"


@dataclass(frozen=True)
class Search(Plan):
    """A plan of all candidates: one ``hoptm-bench tune`` for each sweep that has a search.

    Attributes:
        searched: those sweeps, without what they try.
    """

    searched: tuple[Sweep, ...] = ()

    def _command(self, index: int, sweep: Sweep) -> list[str]:
        (shared,) = expand(self.overrides(self.searched[index]))
        tried = (f"over.{each}" for each in self.searched[index].search)
        return ["tune", *shared, *tried, f"hydra.sweep.dir={as_override(self._place(index))}", "resume=auto"]

    def _place(self, index: int) -> Path:
        return self.folder / str(index)

    def found(self, index: int) -> Tuning:
        """Return what the search of a sweep found.

        Raises:
            ConfigurationError: nothing, since all candidates failed.
        """
        try:
            return read_tuning(self._place(index))
        except UserError as error:
            title = self.searched[index].title
            raise ConfigurationError(f"{title}: every candidate of its search failed; see {self._place(index)}: "
                                     f"{error}") from None  # fmt: skip

    def failed(self) -> list[Job]:
        """Return the candidates that gave nothing."""
        tried = [self.found(index).candidates for index in range(len(self.searched))]
        return [job for job in self.jobs if tried[job.sweep][job.number].accuracy is None]


def searching(plan: Plan) -> Search | None:
    """Return the plan of all candidates of all searches, in a folder of its own beside the suite's; None without any.

    Raises:
        ConfigurationError: a sweep with a search that sweeps over more than the seed, of which the search has one; or a
            setting of the command line that the search is to choose.
    """
    searched = [sweep for sweep in plan.suite.sweeps if sweep.search]
    if not searched:
        return None
    given = {override.partition("=")[0].lstrip("+~") for override in plan.extra}
    chosen = {override.partition("=")[0] for sweep in searched for override in sweep.search}
    if given & chosen:
        raise ConfigurationError(
            f"{', '.join(sorted(given & chosen))}: is what the suite's search chooses; leave it out"
        )
    sweeps, last = [], [*plan.suite.search, JUDGED_ON]
    for sweep in searched:
        overrides = [*sweep.overrides, *sweep.search]
        if len(expand([*overrides, *plan.extra, *last])) != len(expand(sweep.search)):
            raise ConfigurationError(
                f"{sweep.title}: has a search, so it may sweep over nothing but the seed, of which the suite's "
                f"`search` must give one; give one value of every other setting"
            )
        sweeps.append(Sweep(title=sweep.title, overrides=overrides))
    suite = plan.suite.model_copy(update={"sweeps": sweeps, "tables": {}, "title": f"Search: {plan.suite.title}"})
    return Search(suite, plan.extra, Path(f"{plan.folder}-search"), last, tuple(searched))


def settled(plan: Plan, search: Search) -> Plan:
    """Return the plan with the settings that the search chose, and with the record of it for the cards.

    Raises:
        ConfigurationError: no candidate of a sweep has a card.
    """
    choices = {sweep.title: _choice(search, index) for index, sweep in enumerate(search.searched)}
    further = {}
    for sweep in plan.suite.sweeps:
        if decides := sweep.settings_of or (sweep.search and sweep.title):
            settings, tuning = choices[decides]
            record = tuning.model_copy(update={"reused": sweep.settings_of}).model_dump(exclude_defaults=True)
            further[sweep.title] = [*settings, f"tuning={as_override(record)}"]
    return _with(plan, further)


def _choice(search: Search, index: int) -> tuple[list[str], Tuning]:
    """Return the settings of the best candidate, and the record of all."""
    found = search.found(index)
    tried = [each.settings for each in found.candidates]
    return expand(search.searched[index].search)[tried.index(found.chosen)], found


def supposed(plan: Plan) -> Plan:
    """Return the plan with every search's first candidate, for lists and estimates before there are results."""
    first = {sweep.title: expand(sweep.search)[0] for sweep in plan.suite.sweeps if sweep.search}
    return _with(plan, {sweep.title: first.get(sweep.settings_of or sweep.title, []) for sweep in plan.suite.sweeps})


def _with(plan: Plan, further: Mapping[str, list[str]]) -> Plan:
    sweeps = [
        sweep.model_copy(update={"overrides": [*sweep.overrides, *further.get(sweep.title, [])]})
        for sweep in plan.suite.sweeps
    ]
    return replace(plan, suite=plan.suite.model_copy(update={"sweeps": sweeps}))
