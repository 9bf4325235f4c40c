"""When a training saves its state between epoch ends."""

import math
import time
from dataclasses import dataclass, field

from pipeline.progress import say
from pipeline.training import hooks

SHARE = 0.01
"""Of the time since the last save, what the next one may cost."""
LEAST_SECONDS = 10.0
"""Not more often, however cheap a save is: many trainings may share a disk."""


@dataclass
class CheckpointInterval(hooks.CheckpointInterval):
    """Every `steps` steps, or with None as many as keep saving below one hundredth of the training's time.

    Steps take from milliseconds to minutes and states from 1 MB to 1 GB, so no fixed number suits: the number follows
    from what the last save and the steps since were measured to take. It decides only when, never what is computed.
    """

    steps: int | None = None
    done: int = 0
    """Steps since the last save."""
    cost: float = 0.0
    """Seconds that the last save took."""
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    @property
    def seconds(self) -> float:
        """At least so long between two saves."""
        return max(LEAST_SECONDS, self.cost / SHARE)

    def due(self) -> bool:
        """Count a step; whether to save after it."""
        self.done += 1
        if self.steps is not None:
            return self.done >= self.steps
        return time.monotonic() - self.since >= self.seconds

    def saved(self, cost: float, where: str) -> None:
        """A state was saved in `cost` seconds. Says once how many steps a crash can now lose at most."""
        passed, now = time.monotonic() - cost - self.since, time.monotonic()
        self.cost = cost
        if not self.told and self.done:
            every = self.steps or max(1, math.ceil(self.seconds * self.done / max(passed, 1e-9)))
            say(f"state saved in {where}, again after every {every} step{'s'[: every > 1]} and every epoch")
            self.told = True
        self.done, self.since = 0, now
