"""Hydra YAML: the composition of a run, by group."""
