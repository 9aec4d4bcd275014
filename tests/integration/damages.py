"""Damages to a file's bytes, as bad disks and broken transfers make them; the same ones for the same seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

HEAD, TAIL = 600, 200


@dataclass(frozen=True)
class Damage:
    """What was done to the bytes, in words, and what is left of them."""

    name: str
    content: bytes


def damages(content: bytes, count: int, seed: str) -> list[Damage]:
    """Return ``count`` damages of ``content``, each of which differs from it."""
    source = random.Random(seed)
    made: list[Damage] = [Damage("empty", b"")]
    while len(made) < count:
        name, change = source.choices(*zip(*((each, weight) for each, weight in KINDS.items()), strict=True))[0]
        left = change(bytearray(content), source)
        if left != content:
            made.append(Damage(f"{name} no. {len(made)}", bytes(left)))
    return made


def _place(content: bytearray, source: random.Random) -> int:
    """Return a position, half of the time near the start or the end, where headers are."""
    near = source.random()
    if near < 0.4:
        return source.randrange(min(HEAD, len(content)))
    if near < 0.5:
        return len(content) - 1 - source.randrange(min(TAIL, len(content)))
    return source.randrange(len(content))


def _flip(content: bytearray, source: random.Random) -> bytearray:
    content[_place(content, source)] ^= 1 << source.randrange(8)
    return content


def _flips(content: bytearray, source: random.Random) -> bytearray:
    for _ in range(source.randint(2, 8)):
        _flip(content, source)
    return content


def _truncation(content: bytearray, source: random.Random) -> bytearray:
    return content[: _place(content, source)]


def _zeros(content: bytearray, source: random.Random) -> bytearray:
    start = _place(content, source)
    length = min(source.choice([1, 16, 512, 4096]), len(content) - start)
    content[start : start + length] = bytes(length)
    return content


def _insertion(content: bytearray, source: random.Random) -> bytearray:
    content.insert(_place(content, source), source.randrange(256))
    return content


def _garbage(content: bytearray, source: random.Random) -> bytearray:
    return content + source.randbytes(source.choice([1, 8, 1000]))


Change = Callable[[bytearray, random.Random], bytearray]
KINDS: dict[tuple[str, Change], int] = {
    ("one bit", _flip): 10, ("several bits", _flips): 3, ("truncation", _truncation): 4, ("zeros", _zeros): 2,
    ("a byte more", _insertion): 2, ("garbage at the end", _garbage): 1,
}  # fmt: skip
