"""What a setting decides, said where it is declared: from this derive digests, resuming, pooling and ``verify``.

A settings class refuses a field that does not say it. Keywords of parts are taken to decide the result unless their
annotation says otherwise, so a plug-in marks its own the same way: ``root: Machine[Path | None] = None``.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict

from hoptm_plugin.core.registry import keyword_hints, part_classes

T = TypeVar("T")
Role: TypeAlias = Literal["result", "chance", "judgement", "machine", "nothing"]


@dataclass(frozen=True)
class Decides:
    """What a setting decides.

    Attributes:
        role: the "result" (the synthetic set), which of equally made results by "chance" (seeds), the "judgement" (how
            a set is evaluated), where and how the "machine" computes (no more than rounding), or "nothing".
        published: what a recipe reports as published holds for any value.
        beside: it decides what is judged beside the set, and nothing of the set's own figures.
        unless: values at which it decides nothing, as in runs from before there was such a setting.
    """

    role: Role
    published: bool = False
    beside: bool = False
    unless: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Symbol:
    """How a setting is called where room is scarce: ``kappa: Annotated[Number, Symbol("κ")]``.

    Attributes:
        text: it stands for the setting and for all above it; "" of a keyword that goes by the name of what it is a part
            of, as the start of a schedule does.
    """

    text: str


Result = Annotated[T, Decides("result")]
Chance = Annotated[T, Decides("chance", published=True)]
Judgement = Annotated[T, Decides("judgement")]
Machine = Annotated[T, Decides("machine", published=True)]
Nothing = Annotated[T, Decides("nothing", published=True)]


class Settings(BaseModel):
    """Base of settings: frozen, no unknown keys, no NaN; each field says what it decides, or is a group of settings.

    Raises:
        TypeError: at the definition of a class, where a field says neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, ser_json_inf_nan="constants")

    @classmethod
    def __pydantic_init_subclass__(cls, **keywords: Any) -> None:
        """Refuse a field without a role."""
        for name, field in cls.model_fields.items():
            group = isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
            if decides(cls, name) is None and not group:
                raise TypeError(f"{cls.__name__}.{name}: annotate it with what it decides, such as Result[int] or "
                                f"Nothing[str]; see hoptm_plugin.core.roles")  # fmt: skip


def decides(settings: type[Settings], name: str) -> Decides | None:
    """Return what a field decides; None of a group, whose fields say it."""
    return next((each for each in settings.model_fields[name].metadata if isinstance(each, Decides)), None)


def of_part(spec: Mapping[str, Any], kind: type | None) -> dict[str, tuple[Decides, type | None]]:
    """Return what each keyword of a part decides, described or not, and the kind of part that it describes itself.

    Of a part that is not installed nothing is known, so all of it decides the result.
    """
    cls = part_classes(kind).get(str(spec.get("name")))
    hints = keyword_hints(cls) if cls is not None else {}
    keys = dict.fromkeys([*spec, *(key for key in hints if key != "return")])
    return {key: (_mark(hints.get(key)), _kind(hints.get(key))) for key in keys}


def symbols_of_part(spec: Mapping[str, Any], kind: type | None) -> dict[str, str]:
    """Return the symbols of a part's keywords, and of the weight that a part such as a matcher is given."""
    cls = part_classes(kind).get(str(spec.get("name")))
    if cls is None:
        return {}
    hints = {key: symbol for key, hint in keyword_hints(cls).items() if (symbol := symbol_of(_marks(hint))) is not None}
    weight: str = getattr(cls, "weight_symbol", "")
    return hints | ({"weight": weight} if weight else {})


def symbol_of(marks: Iterable[Any]) -> str | None:
    """Return the symbol among what a setting is marked with; None where there is none."""
    return next((each.text for each in marks if isinstance(each, Symbol)), None)


def _mark(hint: Any) -> Decides:
    return next((each for each in _marks(hint) if isinstance(each, Decides)), Decides("result"))


def _marks(hint: Any) -> tuple[Any, ...]:
    marks: tuple[Any, ...] = getattr(hint, "__metadata__", ())
    return marks


def _kind(hint: Any) -> type | None:
    """Return the kind of part that an annotation asks for: alone, optional, or as a mapping's value."""
    kinds = [getattr(each, "kind", each) for each in _types(hint)]
    return next((kind for kind in kinds if part_classes(kind)), None)


def wrapper_of(cls: type, keyword: str) -> type | None:
    """Return the class that a keyword of a part holds parts in, such as a matcher with its weight; None for none."""
    return next((each for each in _types(keyword_hints(cls).get(keyword)) if hasattr(each, "from_spec")), None)


def _types(hint: Any) -> list[type]:
    inner = [each for option in typing.get_args(hint) for each in (option, *typing.get_args(option))]
    return [each for each in (hint, *inner) if isinstance(each, type)]
