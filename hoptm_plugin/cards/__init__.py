"""The card, one run's result: schema, reading, writing, and the words it is told in."""
