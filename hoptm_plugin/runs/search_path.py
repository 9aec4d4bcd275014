"""Hydra's search path, with the YAML of plug-ins behind our own."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from hoptm_plugin.core.plugins import configuration_packages


class PluginSearchPath(SearchPathPlugin):
    """Appends every plug-in's configuration package; ours come first, so nobody shadows them."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the packages."""
        for name, package in configuration_packages():
            search_path.append(provider=name, path=f"pkg://{package}")
