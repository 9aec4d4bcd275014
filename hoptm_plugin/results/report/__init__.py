"""One self-contained HTML page on several runs."""
