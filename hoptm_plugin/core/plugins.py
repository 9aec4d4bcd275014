"""Third-party packages: modules whose import registers parts, and packages whose YAML joins the search path."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from hoptm_plugin.core.errors import PluginError

MODULES, CONFIGURATION = "hoptm_plugin.plugins", "hoptm_plugin.conf"


_state = {"loaded": False}


def load_parts() -> None:
    """Import this library's parts and all plug-ins, once; whoever asks meanwhile gets what is there so far.

    Raises:
        PluginError: naming the plug-in whose import failed; the next who asks hears of it again.
    """
    if _state["loaded"]:
        return
    _state["loaded"] = True
    try:
        import_module("hoptm_plugin.builtin")
        load_plugins()
    except BaseException:
        _state["loaded"] = False
        raise


def load_plugins() -> list[str]:
    """Import every plug-in module; return "name = module" of each.

    Raises:
        PluginError: naming the plug-in whose import failed; nothing is skipped silently.
    """
    loaded = []
    for point in sorted(entry_points(group=MODULES), key=lambda point: point.name):
        try:
            point.load()
        except PluginError:
            raise
        except Exception as error:
            origin = f"{point.value}, from {point.dist.name} {point.dist.version}" if point.dist else point.value
            raise PluginError(
                f"plug-in {point.name!r} ({origin}) could not be imported: {type(error).__name__}: {error}. "
                f"Mend it or uninstall its package."
            ) from error
        loaded.append(f"{point.name} = {point.value}")
    return loaded


def configuration_packages() -> list[tuple[str, str]]:
    """Return (plug-in name, importable package of YAML) of every plug-in that brings configuration."""
    return sorted((point.name, point.value) for point in entry_points(group=CONFIGURATION))
