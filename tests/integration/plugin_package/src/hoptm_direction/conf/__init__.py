"""Hydra YAML of the plug-in."""
