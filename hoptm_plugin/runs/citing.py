"""``hoptm-bench cite``: the BibTeX of what a composition uses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import hoptm_plugin.builtin  # noqa: F401  registers the library's own parts
from hoptm_plugin.core import interfaces
from hoptm_plugin.core.errors import PluginError
from hoptm_plugin.core.plugins import load_plugins
from hoptm_plugin.core.registry import Registry
from hoptm_plugin.runs.references import FILE_NAME, load_references
from hoptm_plugin.runs.settings import validate_settings

GSAM, TESLA = "zhuang2022gsam", "cui2023tesla"
Citation = tuple[str, str]  # role, key

# where a part stands in the settings decides its kind; its own name may be taken in several
_PLACES: dict[str, tuple[Registry[Any], ...]] = {
    "method": (interfaces.methods,),
    "matchers": (interfaces.matchers, interfaces.feature_matchers),
    "schedulers": (interfaces.schedulers,),
    "sampler": (interfaces.samplers,),
    "labels": (interfaces.label_policies,),
    "initial_images": (interfaces.initialisers,),
    "network": (interfaces.networks,),
    "networks": (interfaces.networks,),
    "augment": (interfaces.augmentations,),
    "dataset": (interfaces.datasets,),
}
_ROLES = {"dataset reader": "data set"}


def bibliography(values: Mapping[str, Any]) -> str:
    """Return the BibTeX of composed settings, each entry once, below comments that say what it is cited for.

    Raises:
        ConfigurationError: settings that no run could have.
        PluginError: a part cites what no ``references.bib`` holds.
        UnknownNameError: a part that is not registered.
    """
    settings = validate_settings(values)
    load_plugins()
    interfaces.methods.build(settings.method, "method")
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
    yield from _of(values["method"], "method", "method")
    if values["method"].get("gradient") in ("tesla", "tesla_halved"):
        yield "unroll tesla", TESLA
    if values["experts"]["training"]["algorithm"] == "gsam":
        yield "experts gsam", GSAM
    for key in ("network", "networks", "augment", "dataset"):
        yield from _of(values.get(key), key, key)


def _of(value: Any, place: str, path: str) -> Iterator[Citation]:
    """Yield the citations of a part and of the parts inside it; ``place`` is the innermost key that tells its kind."""
    if isinstance(value, str) and place == "networks":
        value = {"name": value}
    if isinstance(value, list | tuple):
        for item in value:
            yield from _of(item, place, path)
    if not isinstance(value, Mapping):
        return
    name = value.get("name")
    if isinstance(name, str) and (registry := _registry(name, place)) is not None:
        role = f"{_ROLES.get(registry.kind, registry.kind)} {name}"
        yield from ((role, key) for key in registry.get(name, f"{path}.name").cites)
    for key, inner in value.items():
        inner_place = key if key in _PLACES else place if name is None else ""
        yield from _of(inner, inner_place, f"{path}.{key}")


def _registry(name: str, place: str) -> Registry[Any] | None:
    """Return the registry that a part is built from: by its place, else any that knows its name (a schedule, say)."""
    known = _PLACES.get(place, interfaces.REGISTRIES)
    return next((registry for registry in known if name in registry), known[0] if place in _PLACES else None)
