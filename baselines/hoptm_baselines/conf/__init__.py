"""Hydra YAML of the baselines."""
