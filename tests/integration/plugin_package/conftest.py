"""Leaves the tests alone while the package is not installed, as in a run of the framework's own tests."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("hoptm_direction") else ["tests"]
