"""The phases of a slot on Ray."""

from __future__ import annotations

from typing import get_args

import pytest

from ray_pipeline_core.ray_backend.slot import TRANSITIONS, Phase, Slot, SlotEvent

WAYS: dict[str, tuple[list[SlotEvent], Phase]] = {
    "ready": (["answered"], Phase.IDLE),
    "at work": (["answered", "submitted"], Phase.BUSY),
    "ready again": (["answered", "submitted", "answered"], Phase.IDLE),
    "failed while it started": (["lost", "answered"], Phase.EXITING),
    "lost at work": (["answered", "submitted", "lost", "answered"], Phase.EXITING),
    "lost while idle": (["answered", "lost", "answered"], Phase.EXITING),
}


@pytest.mark.parametrize("way", WAYS)
def test_events_lead_to_a_phase(way: str) -> None:
    events, phase = WAYS[way]
    slot = Slot(0, None, [])
    for event in events:
        slot.enter(event)
    assert slot.phase is phase


def test_every_phase_but_the_last_can_be_left_and_reached() -> None:
    assert {phase for phase, _ in TRANSITIONS} == set(Phase) - {Phase.EXITING}
    assert set(TRANSITIONS.values()) == set(Phase) - {Phase.STARTING}
    assert {event for _, event in TRANSITIONS} == set(get_args(SlotEvent))


def test_event_that_is_impossible_in_a_phase_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Slot(0, None, []).enter("submitted")
