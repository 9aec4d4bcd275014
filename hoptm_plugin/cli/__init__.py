"""The command line: arguments, Hydra, help, terminal; it parses and prints, nothing else."""

from hoptm_plugin.cli.entry import main

__all__ = ["main"]
