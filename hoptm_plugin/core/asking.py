"""Computations that a run asks for instead of doing them, so that those of several runs side by side become one.

What may be shared is written as a generator that yields an :class:`Ask` and is sent its answer: :func:`alone` drives
one such generator, :func:`together` drives several. Everything else of a run stays its own.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar

T = TypeVar("T")
Answer = TypeVar("Answer")


class Ask(ABC, Generic[Answer]):
    """A computation, with all that it needs.

    Attributes:
        turn: where runs ask for different things, those of the lowest turn are answered and the others wait, so that
            runs which part for a moment meet again.
        repeatable: an answer that fails for several together can be tried for each of them alone.
    """

    turn: int = 0
    repeatable: ClassVar[bool] = True

    @abstractmethod
    def alike(self) -> Hashable:
        """Return what must be equal for two of a kind to be answered as one; None: it never is."""

    @classmethod
    @abstractmethod
    def answers(cls, asks: Sequence[Self | None]) -> Sequence[Answer | None]:
        """Answer asks that are alike; in the place of one whose run has left stands None, whose answer nobody reads.

        The bits of an answer must depend on its own ask, the number of places and its own place alone.
        """


Asking: TypeAlias = Generator[Ask[Any], Any, T]
"""A generator that yields asks, is sent their answers, and returns a T."""


class _Watch:
    """Which seconds are those of the run that is being driven."""

    idle = 0.0


def own_seconds() -> float:
    """Return a clock's seconds; to a run side by side with others only those pass that it computes in itself.

    Of what was computed for several runs as one, each has an equal share.
    """
    return time.perf_counter() - _Watch.idle


def alone(asking: Asking[T]) -> T:
    """Answer every ask by itself, and return what ``asking`` returns."""
    try:
        ask = next(asking)
        while True:
            try:
                (answer,) = ask.answers([ask])
            except BaseException as error:
                ask = asking.throw(error)
            else:
                ask = asking.send(answer)
    except StopIteration as end:
        found: T = end.value
        return found


def together(
    askings: Mapping[str, Asking[T]], ended: Callable[[str, T | BaseException], object] = lambda name, outcome: None
) -> dict[str, T | BaseException]:
    """Drive generators side by side and return what each returned, or raised: one that fails stops no other.

    Args:
        askings: by name.
        ended: is told of each at once.
    """
    outcomes: dict[str, T | BaseException] = {}
    asks: dict[str, Ask[Any]] = {}
    places: dict[Hashable, list[str]] = {}  # of all that ever asked for a thing together
    before, began = _Watch.idle, own_seconds()
    used = dict.fromkeys(askings, 0.0)

    def go_on(name: str, onward: Callable[[], Ask[Any]]) -> None:
        asks.pop(name, None)
        since = time.perf_counter()
        _Watch.idle = since - (began + used[name])
        try:
            asks[name] = onward()
        except StopIteration as end:
            outcomes[name] = end.value
        except BaseException as error:  # Stopped as well: the others must come to where they can go on from
            outcomes[name] = error
        used[name] += time.perf_counter() - since
        if name in outcomes:
            ended(name, outcomes[name])

    def answer(names: Sequence[str], among: Sequence[str]) -> None:
        asked, since = [asks[name] if name in names else None for name in among], time.perf_counter()
        try:
            found = dict(zip(among, asks[names[0]].answers(asked), strict=True))
            answered = time.perf_counter()
        except BaseException as error:
            if isinstance(error, Exception) and len(names) > 1 and asks[names[0]].repeatable:
                for name in names:
                    answer([name], [name])
            else:
                for name in names:
                    go_on(name, partial(askings[name].throw, error))
        else:
            for name in names:
                used[name] += (answered - since) / len(names)
            for name in names:
                go_on(name, partial(askings[name].send, found[name]))

    try:
        for name, asking in askings.items():
            go_on(name, partial(next, asking))
        while asks:
            turn = min(ask.turn for ask in asks.values())
            groups: dict[Hashable, list[str]] = {}
            for name, ask in asks.items():
                if ask.turn == turn:
                    key = ask.alike()
                    groups.setdefault((type(ask), name if key is None else key), []).append(name)
            for key, names in groups.items():
                places[key] = [*places.get(key, []), *(name for name in names if name not in places.get(key, []))]
                answer(names, places[key])
    finally:
        _Watch.idle = before
        for asking in askings.values():
            asking.close()
    return {name: outcomes[name] for name in askings}
