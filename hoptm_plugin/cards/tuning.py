"""How the settings of a run were chosen, as the card records it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from hoptm_plugin.cards.record import Fraction, Line, Record


class Candidate(Record):
    """Settings that were tried, and the mean accuracy they gave; None where the run failed.

    ``iterations`` is how long they were distilled, where that differs: halving gives more to the better candidates.
    """

    settings: Line
    accuracy: Fraction | None
    iterations: PositiveInt | None = None


class Tuning(Record):
    """A search over settings before the run, which never looked at the test split.

    Attributes:
        split: what the candidates were judged on.
        networks: how many networks judged each.
        seed: of the candidates' distillations.
        candidates: all that were tried, in order.
        chosen: the settings of one of them, which the run was made with.
        reused: the run whose search this was, where this run had none of its own; None where it had.
    """

    split: Literal["validation"]
    networks: PositiveInt
    seed: NonNegativeInt
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    chosen: Line
    reused: Line | None = None

    @model_validator(mode="after")
    def _was_tried(self) -> Tuning:
        if all(each.settings != self.chosen or each.accuracy is None for each in self.candidates):
            raise ValueError("the chosen settings are none of the candidates that were judged")
        return self
