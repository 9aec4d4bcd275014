"""Distilled sets for people without this software: formats, data-set card, and reading them back."""
