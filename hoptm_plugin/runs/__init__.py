"""A run: its settings, its folder, and what distils, judges and verifies."""
