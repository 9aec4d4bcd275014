"""One metric over several networks, as the card records it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from hoptm_plugin.cards.record import Record
from hoptm_plugin.engine.metrics import summarise

Fraction = Annotated[float, Field(ge=0, le=1)]


class Summary(Record):
    """One metric over several networks: mean, population std (ddof 0) and values; None where undefined."""

    mean: Fraction | None
    std: Annotated[float, Field(ge=0, le=0.5)] | None
    values: Annotated[tuple[Fraction | None, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _agrees(self) -> Summary:
        expected = summarise(self.values)
        for name, given in (("mean", self.mean), ("std", self.std)):
            wanted = expected[name]
            if (given is None) != (wanted is None) or abs((given or 0) - (wanted or 0)) > 1e-9:
                raise ValueError(f"{name} is {given}, but the values give {wanted}")
        return self
