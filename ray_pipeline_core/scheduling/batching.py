"""How many groups a slot gets with one call: a call costs more than a short group itself."""

from __future__ import annotations

TARGET_BATCH_S = 0.05
"""What a batch should take, in seconds: long against a call, short against what a person notices."""
BATCH_TIME_LIMIT_S = 2 * TARGET_BATCH_S
"""When a worker begins no further group of a batch, in seconds from its begin."""
MAX_BATCH = 64
"""Groups that a slot gets at most with one call."""


def batch_size(average_group_s: float, before: int, ready: int, slots: int) -> int:
    """How many groups a slot should get now.

    No slot gets more than half of its share of what is left. So a batch that turns out to take long keeps nothing
    from the other slots that they would miss before it is over.

    Args:
        average_group_s: what one group took on this slot of late, in seconds.
        before: how many groups it got the last time; 0 if it is new.
        ready: groups that could go now.
        slots: slots that share them.
    """
    fitting = int(TARGET_BATCH_S / average_group_s) if average_group_s > TARGET_BATCH_S / MAX_BATCH else MAX_BATCH
    return max(1, min(fitting, 2 * before, ready // (2 * slots)))


def updated_average_s(average_group_s: float, elapsed_s: float, groups: int) -> float:
    """What one group takes, after some more took `elapsed_s` together; a slow one is forgotten bit by bit."""
    return max(elapsed_s / groups, average_group_s / 2)
