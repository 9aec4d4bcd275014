"""The BibTeX of what a composition uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hoptm_plugin.cards.references import FILE_NAME, load_references
from hoptm_plugin.core.errors import PluginError
from hoptm_plugin.core.interfaces import Augmentation, DatasetReader, Method, NetworkBuilder
from hoptm_plugin.core.registry import Registry, registry
from hoptm_plugin.core.roles import of_part

GSAM, TESLA = "zhuang2022gsam", "cui2023tesla"
Citation = tuple[str, str]  # role, key

_KINDS: dict[str, type] = {
    "method": Method, "network": NetworkBuilder, "networks": NetworkBuilder, "augment": Augmentation,
    "dataset": DatasetReader,
}  # fmt: skip
_ROLES = {"dataset reader": "data set"}


def bibliography(values: Mapping[str, Any]) -> str:
    """Return the BibTeX of a run's settings, each entry once, below comments that say what it is cited for.

    Raises:
        ConfigurationError: a method that cannot be built.
        PluginError: a part cites what no ``references.bib`` holds.
        UnknownNameError: a part that is not registered.
    """
    registry(Method).build(values["method"], "method")
    references = load_references()
    roles: dict[str, list[str]] = {}
    for role, key in citations(values):
        if key not in references:
            raise PluginError(f"{role}: cites {key!r}, which no {FILE_NAME} holds; add it to the one of its package")
        roles.setdefault(key, [])
        if role not in roles[key]:
            roles[key].append(role)
    blocks = ["\n".join([*(f"% {role}: {key}" for role in roles[key]), references[key]]) for key in roles]
    return "\n\n".join(blocks) + "\n" if blocks else "% nothing in this composition names a publication\n"


def citations(values: Mapping[str, Any]) -> Iterator[Citation]:
    """Yield (role, key) of composed settings: of the method, its parts, experts, network, augmentation and data."""
    for key in values.get("method_cites") or ():
        yield "method", key
    yield from _of(values["method"], Method, "method")
    if values["method"].get("gradient") in ("tesla", "tesla_halved"):
        yield "unroll tesla", TESLA
    if values["experts"]["training"]["algorithm"] == "gsam":
        yield "experts gsam", GSAM
    for key in ("network", "networks", "augment", "dataset"):
        for spec in [values[key]] if isinstance(values.get(key), Mapping) else values.get(key) or ():
            yield from _of({"name": spec} if isinstance(spec, str) else spec, _KINDS[key], key)


def _of(spec: Any, kind: type, path: str) -> Iterator[Citation]:
    """Yield the citations of a part and of the parts inside it, or of parts by names of their own."""
    if not isinstance(spec, Mapping):
        return
    if "name" not in spec:
        for key, inner in spec.items():
            yield from _of(inner, kind, f"{path}.{key}")
        return
    parts: Registry[Any] = registry(kind)
    role = f"{_ROLES.get(parts.kind, parts.kind)} {spec['name']}"
    yield from ((role, key) for key in parts.get(spec["name"], f"{path}.name").cited(spec))
    for key, (_, inner_kind) in of_part(spec, kind).items():
        if inner_kind is not None and key in spec:
            yield from _of(spec[key], inner_kind, f"{path}.{key}")
