"""Names for parts: register a class, build it from a mapping, explain it in ``hoptm-bench list``."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from hoptm_plugin.core.errors import ConfigurationError, PluginError, Problems, UnknownNameError
from hoptm_plugin.core.plugins import load_parts
from hoptm_plugin.core.text import unknown_name

T = TypeVar("T")
C = TypeVar("C")
_BY_BASE: dict[type, Registry[Any]] = {}


class Registry(Generic[T]):
    """Classes of one kind by name, filled with this library's parts and those of plug-ins when first asked.

    A parameter annotated with a part's base class (alone, optional, or as a mapping's value) is itself built from a
    mapping with ``name``; every other parameter is checked against its annotation.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        """Hold subclasses of ``base``; ``kind`` is the word users read ("matcher")."""
        self.kind, self.base = kind, base
        self._classes: dict[str, type[T]] = {}
        _BY_BASE[base] = self

    def add(self, name: str, cls: type[T]) -> None:
        """File a class under ``name``; a notebook's cell that is run again files its class anew.

        Raises:
            PluginError: the name is taken, abstract methods are left, or the class cannot do anything.
        """
        where = f"{self.kind} {name!r} ({_place(cls)})"
        if name in self._classes and _place(self._classes[name]) != _place(cls):
            raise PluginError(f"{where}: the name is taken by {_place(self._classes[name])}")
        if inspect.isabstract(cls):
            missing = ", ".join(sorted(cls.__abstractmethods__))  # type: ignore[attr-defined]
            raise PluginError(f"{where}: abstract methods are left: {missing}")
        if reason := getattr(cls, "unfit", str)():
            raise PluginError(f"{where}: {reason}")
        self._classes[name] = cls

    def _filled(self) -> dict[str, type[T]]:
        load_parts()
        return self._classes

    def __iter__(self) -> typing.Iterator[str]:
        """Iterate over the names, sorted."""
        return iter(sorted(self._filled()))

    def get(self, name: str, path: str = "") -> type[T]:
        """Return the class called ``name``; an unknown name is answered with near matches and all known names."""
        if name not in self._filled():
            raise UnknownNameError(unknown_name(f"{_at(path)}no {self.kind} is called {name!r}", name, self))
        return self._classes[name]

    def build(self, spec: Mapping[str, Any], path: str = "") -> T:
        """Make the part that ``spec`` describes: ``name`` and its keyword arguments, parts inside parts included.

        Raises:
            ConfigurationError: all unknown, missing or ill-typed keywords at once, each with its place in ``path``.
        """
        if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
            raise ConfigurationError(f"{_at(path)}must be a mapping with a 'name' (one of {', '.join(self)})")
        cls = self.get(spec["name"], _join(path, "name"))
        return build(cls, {key: value for key, value in spec.items() if key != "name"}, path)

    def describe(self) -> list[tuple[str, str]]:
        """Return (name, first line of the docstring) of every entry."""
        return [(name, (inspect.getdoc(self.get(name)) or "").partition("\n")[0]) for name in self]


def register(name: str) -> Callable[[type[C]], type[C]]:
    """Return a class decorator that makes a part known under ``name``; its base class says what kind of part it is.

    Raises:
        PluginError: not a subclass of one kind of part, the name is taken, or abstract methods are left.
    """

    def decorate(cls: type[C]) -> type[C]:
        import_module("hoptm_plugin.core.interfaces")  # every kind of part has its registry then
        bases = [base for base in getattr(cls, "__mro__", ()) if base in _BY_BASE]
        if len(bases) != 1:
            kinds = ", ".join(sorted(base.__name__ for base in bases or _BY_BASE))
            raise PluginError(f"{name!r} ({_place(cls)}): must be a subclass of one of {kinds}" if not bases else
                              f"{name!r} ({_place(cls)}): must be a part of one kind, and is {kinds}")  # fmt: skip
        if not cls.__module__.startswith("hoptm_plugin."):
            import_module("hoptm_plugin.builtin")  # whose names are taken, whoever comes first
        _BY_BASE[bases[0]].add(name, cls)
        return cls

    return decorate


def registry(base: type[T]) -> Registry[T]:
    """Return what is registered of one kind of part, such as ``registry(Matcher)``: iterate over it, ``get`` a class.

    Raises:
        PluginError: ``base`` is no kind of part.
    """
    import_module("hoptm_plugin.core.interfaces")
    if base not in _BY_BASE:
        raise PluginError(f"{base!r}: no kind of part; one of {', '.join(sorted(each.__name__ for each in _BY_BASE))}")
    return _BY_BASE[base]


def _place(cls: type) -> str:
    return f"{getattr(cls, '__module__', '')}.{getattr(cls, '__qualname__', repr(cls))}"


def part_classes(base: type | None) -> Mapping[str, type]:
    """Return the registered classes of a kind of part by name; none where ``base`` is no kind of part."""
    return _BY_BASE[base]._filled() if base in _BY_BASE else {}


def keyword_hints(cls: type) -> dict[str, Any]:
    """Return the annotations of a class's keywords, with what ``Annotated`` adds to them."""
    return typing.get_type_hints(cls.__init__, include_extras=True)  # type: ignore[misc]


def build(cls: Callable[..., T], keywords: Mapping[str, Any], path: str = "") -> T:
    """Call ``cls`` with keywords converted by their annotations; report every problem at once."""
    signature = inspect.signature(cls)
    hints = typing.get_type_hints(cls.__init__ if isinstance(cls, type) else cls)  # type: ignore[misc]
    known = [name for name, p in signature.parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    problems = Problems()
    for key in keywords:
        if key not in known:
            problems.found.append(unknown_name(f"{_join(path, key)}: unknown setting", key, known))
    for name, parameter in signature.parameters.items():
        if name in known and name not in keywords and parameter.default is inspect.Parameter.empty:
            problems.found.append(f"{_join(path, name)}: missing")
    values = {
        key: problems.attempt(partial(convert, hints.get(key, Any), value, _join(path, key)))
        for key, value in keywords.items()
        if key in known
    }
    problems.raise_if_any()
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigurationError(f"{_at(path)}{error}") from error


def convert(hint: Any, value: Any, path: str) -> Any:
    """Turn a plain value into what the annotation asks for."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if isinstance(value, Mapping):
        for option in options:
            if option in _BY_BASE:
                return _BY_BASE[option].build(value, path)
            if hasattr(option, "from_spec"):
                return option.from_spec(value, path)
            part = typing.get_args(option)[-1:]
            if (
                typing.get_origin(option) is not None
                and part
                and (part[0] in _BY_BASE or hasattr(part[0], "from_spec"))
            ):
                problems = Problems()
                items = {
                    key: problems.attempt(partial(convert, part[0], item, _join(path, str(key))))
                    for key, item in value.items()
                    if item is not None
                }
                problems.raise_if_any()
                return items
    if any(isinstance(value, option) for option in options if isinstance(option, type) and option in _BY_BASE):
        return value
    if any(hasattr(option, "from_spec") for option in options) and not isinstance(value, tuple(options)):
        raise ConfigurationError(f"{path}: must be a mapping with a 'name', got {value!r}")
    plain = [option for option in options if option not in _BY_BASE]
    # a part's base class would only add a second, puzzling complaint about a plain value
    return checked(functools.reduce(operator.or_, plain) if len(plain) < len(options) and plain else hint, value, path)


def checked(hint: Any, value: Any, path: str) -> Any:
    """Check a plain value against a type (pydantic's rules: "1e-10" is a float, "abc" is not)."""
    try:
        try:
            adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))
        except (PydanticUserError, TypeError):  # a type that has a configuration of its own, or takes none
            adapter = TypeAdapter(hint)
        return adapter.validate_python(value)
    except ValidationError as error:
        raise ConfigurationError(validation_problems(error, path)) from None


def validation_problems(error: ValidationError, path: str = "") -> list[str]:
    """Say in one line each what pydantic found wrong."""
    lines: dict[str, str] = {}
    for item in error.errors():
        place = _join(path, *(str(part) for part in item["loc"] if isinstance(part, (str, int))))
        given = "" if item["type"] == "missing" else f", got {item['input']!r}"
        lines.setdefault(place, f"{place}: {item['msg'].removeprefix('Value error, ')}{given}")
    return list(lines.values())


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _at(path: str) -> str:
    return f"{path}: " if path else ""
