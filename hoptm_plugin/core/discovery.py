"""What is registered, read from sources: importing all of it takes seconds, for torch.

Plug-ins are read with mistrust. Where one might register in a way that its sources do not spell out, or might not be
importable, :func:`registered` says so instead of guessing, and the caller imports it.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

from hoptm_plugin.core.sources import Source, Sources, UnresolvedError, dotted, locate, top_of

OWN = "hoptm_plugin"
_INTERFACES = f"{OWN}.core.interfaces"


def registries() -> dict[str, str]:
    """Return the kind of part of every registry, by the registry's full name and in the order of ``REGISTRIES``."""
    kinds: dict[str, str] = {}
    order: list[str] = []
    for node in Source(_INTERFACES, Path(__file__).with_name("interfaces.py")).tree.body:
        match node:
            case ast.AnnAssign(
                target=ast.Name(id=name), value=ast.Call(func=ast.Name(id="Registry"), args=[ast.Constant(kind), _])
            ):
                kinds[name] = str(kind)
            case ast.AnnAssign(target=ast.Name(id="REGISTRIES"), value=ast.Tuple(elts=names)):
                order = [dotted(name) for name in names]
    return {f"{_INTERFACES}.{name}": kinds[name] for name in order}


def registered(points: Iterable[EntryPoint]) -> dict[str, list[tuple[str, str]]]:
    """Return what ``Registry.describe`` would of every kind, with this library and the given plug-ins imported.

    Raises:
        UnresolvedError: a plug-in must be imported for that.
    """
    modules = [_module(point) for point in points]
    sources = Sources(sorted({OWN, *map(top_of, modules)}))
    kinds = registries()
    reader = _Reader(sources, kinds)
    for module in modules:
        reader.follow(module)
    found: dict[str, dict[str, str]] = {kind: {} for kind in kinds.values()}
    for module in sources.paths:
        if top_of(module) != OWN and module not in reader.reached:
            if re.search(rb"\bregister\b", sources.paths[module].read_bytes()):
                raise UnresolvedError(f"{module}: may be imported or not, and may register")
            continue
        for registry, name, text in reader.registrations(module):
            if name in found[kinds[registry]]:
                raise UnresolvedError(f"{module}: {name!r} is registered twice")
            found[kinds[registry]][name] = text
    for module in reader.reached:
        reader.check(module)
    return {kind: sorted(entries.items()) for kind, entries in found.items()}


def _module(point: EntryPoint) -> str:
    if not re.fullmatch(r"[\w.]+", point.value):
        raise UnresolvedError(f"{point.value}: not a module alone")
    return point.value


class _Reader:
    """Reads registrations, and of plug-ins whether there may be others.

    Attributes:
        reached: modules of plug-ins that are surely imported with them.
    """

    def __init__(self, sources: Sources, registries: Iterable[str]) -> None:
        self._sources, self._registrars = sources, {f"{registry}.register" for registry in registries}
        self._tops = {top_of(module) for module in sources.paths}
        # what this library needs itself cannot need this library
        self._unsuspected = {
            OWN, *sys.stdlib_module_names,
            *(top_of(name) for module in sources.paths if top_of(module) == OWN for name in sources[module].imported),
        }  # fmt: skip
        self._understood: set[int] = set()
        self.reached: set[str] = set()

    def follow(self, module: str) -> None:
        """Add the modules of plug-ins that importing ``module`` surely imports to ``reached``.

        Raises:
            UnresolvedError: something that is imported may be missing, or may register and is no plug-in itself.
        """
        todo = self._importable(module)
        while todo:
            module = todo.pop()
            if module in self.reached or module not in self._sources.paths or top_of(module) == OWN:
                continue
            self.reached.add(module)
            source = self._sources[module]
            for node in source.tree.body:  # what stands under a condition may not be imported
                if isinstance(node, ast.Import):
                    todo += [name for alias in node.names for name in self._importable(alias.name)]
                elif isinstance(node, ast.ImportFrom):
                    origin = source.origin(node)
                    todo += self._importable(origin)
                    names = [f"{origin}.{alias.name}" for alias in node.names if alias.name != "*"]
                    todo += [name for name in names if self._sources.resolve(name)]
            for top in {top_of(name) for name in source.imported} - self._tops - self._unsuspected:
                self._unsuspected.add(top)
                if _mentions_this_library(top):
                    raise UnresolvedError(f"{top}: imported by {module}, and may register")

    def _importable(self, module: str) -> list[str]:
        """Return a module and the packages it is in, after looking whether it is there."""
        if top_of(module) in self._tops:
            if not any(f"{known}.".startswith(f"{module}.") for known in self._sources.paths):
                raise UnresolvedError(f"{module}: no such module")
        elif top_of(module) not in self._unsuspected:
            locate(top_of(module))
        parts = module.split(".")
        return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]

    def registrations(self, module: str) -> Iterator[tuple[str, str, str]]:
        """Yield (registry, name, first line of the docstring) of every decorated class of a module."""
        for node in self._sources[module].tree.body:
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                match decorator:
                    case ast.Call(func=function, args=[ast.Constant(str(name))], keywords=[]):
                        full = self._full_name(module, dotted(function))
                        if full in self._registrars:
                            text = ast.get_docstring(node)
                            if text is None:  # then it is the base class's, or what another decorator makes
                                raise UnresolvedError(f"{module}: {name!r} has no docstring")
                            self._understood.add(id(function))
                            yield full.removesuffix(".register"), name, text.partition("\n")[0]

    def check(self, module: str) -> None:
        """Look for other uses of registries, after :meth:`registrations`.

        Raises:
            UnresolvedError: there are some.
        """
        source = self._sources[module]
        understood = self._understood | {id(value) for value in source.aliases}
        nodes: list[ast.AST] = [source.tree]
        while nodes:
            node = nodes.pop()
            name = dotted(node) if isinstance(getattr(node, "ctx", None), ast.Load) else ""
            if not name:
                nodes += ast.iter_child_nodes(node)
            if id(node) not in understood and self._suspect(module, node, name):
                raise UnresolvedError(f"{module}, line {getattr(node, 'lineno', 0)}: may register")

    def _suspect(self, module: str, node: ast.AST, name: str) -> bool:
        full = name and self._full_name(module, name)
        if full in self._registrars or (full and self._full_name(full, "register") in self._registrars):
            return True  # a registry, or its register, is handed on
        called_register = isinstance(node, ast.Attribute) and node.attr == "register"
        return called_register and (not full or top_of(full) in self._tops)

    def _full_name(self, module: str, name: str) -> str:
        """Return what a name in a module stands for, "" if that is unknown."""
        try:
            return self._sources.resolve(f"{module}.{name}") if name else ""
        except UnresolvedError:
            return ""


def _mentions_this_library(top: str) -> bool:
    try:
        files = [file for place in locate(top) for file in ([place] if place.is_file() else place.rglob("*.py"))]
    except UnresolvedError:  # imported under a condition, which does not hold
        return False
    return any(OWN.encode() in file.read_bytes() for file in files)
