"""Distilled sets for people without this software, and reading them back."""
