"""Results: the card of a run, its picture, comparison tables, and what a terminal shows."""
