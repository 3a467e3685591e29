"""What a run tells its observers, and that none of them can hurt it."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core import Progress, RankFailure, RunObserver
from ray_pipeline_core.events import ObserverGroup

EVENTS: dict[str, tuple[Any, ...]] = {
    "on_run_started": ("plan",),
    "on_rank_finished": (3, 1.5),
    "on_rank_failed": (RankFailure(3, "error", 1, "ValueError", "bad"), True),
    "on_progress": ("progress",),
    "on_run_finished": ("result",),
}


class Listener:
    """Notes what it hears; knows nothing of the base class."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        if name not in EVENTS:
            raise AttributeError(name)
        return lambda *arguments: self.heard.append((name, arguments))


class Broken:
    """Raises in every method."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> None:
            self.calls += 1
            raise self.error

        if name not in EVENTS:
            raise AttributeError(name)
        return method


class Unreadable:
    """Raises before a method is found."""

    @property
    def on_progress(self) -> Any:
        raise RuntimeError("not connected")


class OnlyProgress:
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_progress(self, progress: Any) -> None:
        self.seen.append(progress)


def tell_all(group: ObserverGroup) -> None:
    for event, arguments in EVENTS.items():
        getattr(group, event)(*arguments)


def progress(**fields: Any) -> Progress:
    values: dict[str, Any] = {
        "name": "run",
        "world_size": 10,
        "completed": 0,
        "skipped": 0,
        "failed": 0,
        "running": 0,
        "workers": 0,
        "starting": 0,
        "retries": 0,
        "preemptions": 0,
        "elapsed_s": 0.0,
    }
    return Progress(**values | fields)


# --- observers ------------------------------------------------------------------------------------------------------


def test_group_passes_every_event_of_the_base_class_to_every_observer() -> None:
    assert EVENTS.keys() == {name for name in vars(RunObserver) if name.startswith("on_")}
    listeners = [Listener(), Listener()]
    tell_all(ObserverGroup(listeners))
    assert [listener.heard for listener in listeners] == [list(EVENTS.items())] * 2


def test_base_class_does_nothing() -> None:
    tell_all(ObserverGroup([RunObserver()]))


def test_observer_with_some_of_the_methods_hears_those() -> None:
    observer = OnlyProgress()
    tell_all(ObserverGroup([object(), observer]))
    assert observer.seen == ["progress"]


def test_observers_may_come_from_an_iterator() -> None:
    listener = Listener()
    group = ObserverGroup(iter([listener]))
    tell_all(group)
    tell_all(group)
    assert len(listener.heard) == 2 * len(EVENTS)


@pytest.mark.parametrize("bad", [Broken(RuntimeError("no good")), Unreadable()])
def test_observer_that_raises_is_logged_once_and_the_others_hear_everything(
    bad: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before, after = Listener(), Listener()
    group = ObserverGroup([before, bad, after])
    with caplog.at_level(logging.ERROR):
        tell_all(group)
        tell_all(group)
    assert len(before.heard) == len(after.heard) == 2 * len(EVENTS)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert type(bad).__name__ in record.getMessage()


def test_observer_that_raised_is_told_the_next_event_all_the_same() -> None:
    broken = Broken(ValueError("no good"))
    tell_all(ObserverGroup([broken]))
    assert broken.calls == len(EVENTS)


def test_each_observer_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    tell_all(ObserverGroup([Broken(ValueError("first")), Broken(ValueError("second"))]))
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["first", "second"]


def test_interruption_is_not_taken_for_the_fault_of_an_observer() -> None:
    class Interrupted:
        def on_progress(self, progress: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ObserverGroup([Interrupted()]).on_progress(progress())


def test_observer_that_exits_does_not_end_the_run(caplog: pytest.LogCaptureFixture) -> None:
    tell_all(ObserverGroup([Broken(SystemExit(3))]))
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [SystemExit]


# --- progress -------------------------------------------------------------------------------------------------------


def test_remaining_ranks_have_neither_completed_nor_failed() -> None:
    assert progress(completed=6, failed=1).remaining == 3


@pytest.mark.parametrize(
    ("fields", "eta_s"),
    [
        ({"elapsed_s": 100.0}, None),
        ({"completed": 4, "skipped": 4, "elapsed_s": 100.0}, None),
        ({"completed": 5, "elapsed_s": 100.0}, 100.0),
        ({"completed": 6, "skipped": 4, "elapsed_s": 10.0}, 20.0),
        ({"completed": 1, "failed": 1, "elapsed_s": 10.0}, 40.0),
        ({"completed": 10, "elapsed_s": 10.0}, 0.0),
    ],
)
def test_time_to_go_is_estimated_from_the_ranks_of_this_run(fields: dict[str, Any], eta_s: float | None) -> None:
    assert progress(**fields).eta_s == eta_s


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.floats(0, 1e6))
def test_progress_is_plain_json(ended: int, skipped: int, failed: int, elapsed_s: float) -> None:
    told = progress(world_size=20, completed=ended + skipped, skipped=skipped, failed=failed, elapsed_s=elapsed_s)
    plain = told.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["remaining"] == 20 - ended - skipped - failed
    assert plain["eta_s"] == told.eta_s
    assert (plain["eta_s"] is None) == (ended + failed == 0)
