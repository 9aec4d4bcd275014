"""The search for settings that comes before a suite's runs: all candidates on the validation split, the best taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from suite_file import Sweep
from suite_plan import Plan, expand

from hoptm_plugin.cards.card import read_card
from hoptm_plugin.core.errors import ConfigurationError
from hoptm_plugin.runs.composition import as_override

# a search's runs never look at the test split
JUDGED_ON = "protocol.split=validation"


def searching(plan: Plan) -> Plan | None:
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
    return replace(plan, suite=suite, folder=Path(f"{plan.folder}-search"), last=last)


def settled(plan: Plan, search: Plan) -> Plan:
    """Return the plan with the settings that the search chose, and with the record of it for the cards.

    Raises:
        ConfigurationError: no candidate of a sweep has a card.
    """
    searched = [sweep for sweep in plan.suite.sweeps if sweep.search]  # as the search's plan has them
    choices = {sweep.title: _choice(search, index, sweep) for index, sweep in enumerate(searched)}
    further = {}
    for sweep in plan.suite.sweeps:
        if decides := sweep.settings_of or (sweep.search and sweep.title):
            settings, tuning = choices[decides]
            further[sweep.title] = [*settings, f"tuning={as_override(tuning | {'reused': sweep.settings_of})}"]
    return _with(plan, further)


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


def _choice(search: Plan, index: int, sweep: Sweep) -> tuple[list[str], dict[str, Any]]:
    """Return the settings of the best candidate, the first of equals, and the record of all."""
    jobs = [job for job in search.jobs if job.sweep == index]
    accuracies: list[float | None] = []
    for job in jobs:
        cards = [read_card(path) for path in search.cards(job)]
        values = [value for card in cards for value in card.evaluations[0].accuracy.values if value is not None]
        accuracies.append(fmean(values) if values else None)
    candidates = list(zip(expand(sweep.search), accuracies, strict=True))
    known = [(settings, accuracy) for settings, accuracy in candidates if accuracy is not None]
    if not known:
        raise ConfigurationError(f"{sweep.title}: every candidate of its search failed; see {search.folder}")
    best = max(known, key=lambda each: each[1])[0]
    tuning = {
        "split": "validation", "networks": jobs[0].settings.protocol.repeats, "seed": jobs[0].settings.seed,
        "candidates": [{"settings": " ".join(settings), "accuracy": accuracy} for settings, accuracy in candidates],
        "chosen": " ".join(best),
    }  # fmt: skip
    return best, tuning
