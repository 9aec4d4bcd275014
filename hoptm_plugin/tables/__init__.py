"""From cards to tables: grids, tests, scores, text formats."""
