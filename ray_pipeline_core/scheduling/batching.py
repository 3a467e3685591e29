"""How many groups a slot gets with one call: a call costs more than a short group itself."""

from __future__ import annotations

TARGET_BATCH_S = 0.05
"""How long the groups of one call should take together, in seconds: long for a call, too short for a person to see."""
BATCH_TIME_LIMIT_S = 2 * TARGET_BATCH_S
"""How long after the start of a batch a worker starts further groups of it, in seconds."""
MAX_BATCH = 64
"""The most groups that a slot gets with one call."""


def batch_size(average_group_s: float, before: int, ready: int, slots: int) -> int:
    """Return how many groups a slot should get now.

    No slot gets more than half of its share of what is left. So a batch that turns out to take long keeps nothing
    from the other slots that they would miss before it is over.

    Args:
        average_group_s: how long one group took on this slot recently, in seconds.
        before: how many groups it got the last time; 0 if it is new.
        ready: groups that could run now.
        slots: slots that share them.
    """
    is_long = average_group_s > TARGET_BATCH_S / MAX_BATCH
    fitting = int(TARGET_BATCH_S / average_group_s) if is_long else MAX_BATCH
    return max(1, min(fitting, 2 * before, ready // (2 * slots)))


def updated_average_s(average_group_s: float, elapsed_s: float, groups: int) -> float:
    """Return how long one group takes, after `groups` more took `elapsed_s` seconds; a slow one is forgotten slowly."""
    return max(elapsed_s / groups, average_group_s / 2)
