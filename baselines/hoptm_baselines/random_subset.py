"""The floor of every table: random training images."""

from __future__ import annotations

from collections.abc import Iterator

from hoptm_plugin import LossTerm, Method, SyntheticSet, Task, real_subset, register


@register("random_subset")
class RandomSubset(Method):
    """Random training images of each class, without replacement; nothing is learned.

    The protocol's own learning rate trains on it (docs/methods.md 10.1).
    """

    images_are = "real"
    floor = True

    def setup(self, task: Task) -> SyntheticSet:
        """Return the subset."""
        return real_subset(task.data, task.ipc, task.seeds.child("random subset"))

    def losses(self, synthetic: SyntheticSet, step: int) -> Iterator[LossTerm]:
        """Yield nothing."""
        yield from ()
