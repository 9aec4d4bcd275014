"""A third party's scheduler."""

from hoptm_plugin import Scheduler, register


@register("from_the_start")
class FromTheStart(Scheduler):
    """Matches only what experts do first, up to iteration ``until``; then whatever the sampler draws.

    Args:
        until: the iteration from which all start epochs are open.
    """

    def __init__(self, until: int = 100) -> None:
        self.until = until

    def start_epochs(self, step: int) -> tuple[int, int] | None:
        """Return start epoch 0 alone, or no bounds."""
        return (0, 0) if step < self.until else None
