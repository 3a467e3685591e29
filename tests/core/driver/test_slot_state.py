"""What becomes of the ranks of a slot that is lost."""

from __future__ import annotations

from ray_pipeline_core.driver.slot_state import SlotState
from ray_pipeline_core.scheduling.outcomes import AttemptFailure
from ray_pipeline_core.scheduling.rank_groups import TaskGroup

PREEMPTED = AttemptFailure("worker_lost", "NodeDied", "its node was taken away", preempted=True)
STALLED = AttemptFailure("timeout", "RankStalled", "nothing for 60 s")


def test_why_one_rank_was_ended_says_nothing_of_its_neighbours() -> None:
    slot = SlotState(1.0, has_started=True)
    slot.assign([TaskGroup((0, 1, 2))], 0.0)
    outcomes = slot.outcomes_when_lost({2}, PREEMPTED, 10.0, {1: STALLED})
    assert {each.rank: each.failure for each in outcomes} == {0: PREEMPTED, 1: STALLED, 2: None}


def test_groups_of_a_batch_that_were_not_begun_have_no_outcome() -> None:
    slot = SlotState(1.0, has_started=True)
    slot.assign([TaskGroup((0,)), TaskGroup((1,)), TaskGroup((2,))], 0.0)
    outcomes = slot.outcomes_when_lost({0}, PREEMPTED, 10.0, {1: STALLED})
    assert {each.rank: each.failure for each in outcomes} == {0: None, 1: STALLED}
