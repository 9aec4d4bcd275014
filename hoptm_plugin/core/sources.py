"""Python sources, read without importing them: which modules a package has, and what the names in them stand for."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path


class UnresolvedError(Exception):
    """What sources alone do not tell; only an import does."""


def locate(top: str) -> list[Path]:
    """Return a top-level package's folders, or the file of a module that is no package; imports nothing.

    Raises:
        UnresolvedError: it is not installed, or lies neither in a folder nor in a file.
    """
    try:
        spec = find_spec(top)
    except ValueError:  # an imported module without a specification
        spec = None
    places = (spec.submodule_search_locations or [spec.origin or ""]) if spec else []
    paths = [Path(place) for place in places if place]
    if not paths or not all(path.exists() for path in paths):
        raise UnresolvedError(f"{top}: not found as a folder or a file")
    return paths


def top_of(name: str) -> str:
    """Return the top-level package of a full name."""
    return name.partition(".")[0]


def dotted(node: ast.AST) -> str:
    """Return "a.b.c" for a name and attributes of it, "" for any other expression."""
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return base and f"{base}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


class Source:
    """One module's syntax tree, and what its module-level names stand for.

    Attributes:
        name: the module's full name.
        tree: its syntax tree.
        names: by module-level name the full name that it stands for; its own full name where it was defined here, or
            where it depends on what runs.
        stars: modules from which it takes all names.
        imported: modules that it imports outside of functions and classes, perhaps under a condition.
        aliases: the expressions on the right of assignments that only give a thing another name.
    """

    def __init__(self, name: str, path: Path) -> None:
        """Read ``path``.

        Raises:
            UnresolvedError: it cannot be read or parsed.
        """
        try:
            self.tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            raise UnresolvedError(f"{path}: {error}") from error
        self.name = name
        self._package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.names: dict[str, str] = {}
        self.stars: list[str] = []
        self.imported: set[str] = set()
        self.aliases: list[ast.expr] = []
        self._read(self.tree.body)

    def _read(self, nodes: Iterable[ast.AST]) -> None:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self.imported.add(alias.name)
                    self._bind(alias.asname or top_of(alias.name), alias.name if alias.asname else top_of(alias.name))
            elif isinstance(node, ast.ImportFrom):
                origin = self.origin(node)
                self.imported.add(origin)
                for alias in node.names:
                    if alias.name == "*":
                        self.stars.append(origin)
                    elif origin != self.name or alias.asname:  # else it must be a module of this package
                        self._bind(alias.asname or alias.name, f"{origin}.{alias.name}")
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self._bind(node.name, f"{self.name}.{node.name}")
            elif isinstance(node, ast.Assign) and (pairs := _aliases(node)):
                for name, value in pairs:
                    self._bind(name, f"{self.name}.{dotted(value)}")
                    self.aliases.append(value)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                self._bind(node.id, f"{self.name}.{node.id}")
            elif not isinstance(node, ast.Lambda):
                self._read(ast.iter_child_nodes(node))

    def _bind(self, name: str, target: str) -> None:
        if self.names.setdefault(name, target) != target:
            self.names[name] = f"{self.name}.{name}"

    def origin(self, node: ast.ImportFrom) -> str:
        """Return the full name of the module that ``from ... import`` names."""
        if not node.level:
            return node.module or ""
        parts = self._package.split(".")
        if node.level > len(parts):
            raise UnresolvedError(f"{self.name}: a relative import beyond the top-level package")
        return ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [node.module])])


def _aliases(node: ast.Assign) -> list[tuple[str, ast.expr]]:
    """Return (name, expression) of ``a = b.c`` and ``a, d = b.c, e``; nothing if any part of it is more than that."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            if len(target.elts) != len(node.value.elts):
                return []
            pairs += zip(target.elts, node.value.elts, strict=True)
        else:
            pairs.append((target, node.value))
    plain = [(target.id, value) for target, value in pairs if isinstance(target, ast.Name) and dotted(value)]
    return plain if len(plain) == len(pairs) else []


class Sources:
    """All modules of some top-level packages, each parsed when it is first asked for.

    Attributes:
        paths: the file of every module, by its full name.
    """

    def __init__(self, packages: Iterable[str]) -> None:
        """Find the modules of ``packages``.

        Raises:
            UnresolvedError: one of them cannot be located.
        """
        self.paths: dict[str, Path] = {}
        self._parsed: dict[str, Source] = {}
        for package in packages:
            for place in locate(package):
                if place.is_file():
                    self.paths[package] = place
                    continue
                for path in place.rglob("*.py"):
                    parts = path.relative_to(place).with_suffix("").parts
                    self.paths[".".join([package, *parts]).removesuffix(".__init__")] = path

    def __getitem__(self, module: str) -> Source:
        """Return a module's source."""
        if module not in self._parsed:
            self._parsed[module] = Source(module, self.paths[module])
        return self._parsed[module]

    def resolve(self, name: str) -> str:
        """Return the full name where what ``name`` stands for is defined, through imports and aliases.

        Raises:
            UnresolvedError: no module-level statement binds it.
        """
        seen: set[str] = set()
        while name not in seen:
            seen.add(name)
            module = name
            while module and module not in self.paths:
                module = module.rpartition(".")[0]
            if module in ("", name):  # another package's, or a module
                return name
            head, dot, tail = name.removeprefix(f"{module}.").partition(".")
            target = self._target(module, head)
            if target == f"{module}.{head}":
                return name
            name = target + dot + tail
        raise UnresolvedError(f"{name}: stands for itself")

    def _target(self, module: str, name: str) -> str:
        modules = [module]
        for place in modules:  # grows while it is gone through
            if name in self[place].names:
                return self[place].names[name]
            modules += [star for star in self[place].stars if star in self.paths and star not in modules]
        raise UnresolvedError(f"{module}: nothing is called {name!r}")
