"""What a task's log shows of the log of its job."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from airflow_provider.airflow_calls import in_thread
from airflow_provider.job_reports import JobReports
from ray_pipeline_core import JobLog, Progress, ProgressLog

PROGRESS = Progress(
    name="run", world_size=4, completed=0, skipped=0, failed=0, running=1, workers=1, starting=0, retries=0,
    preemptions=0, elapsed_s=10.0,
)  # fmt: skip


def _reported(text: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    reports = JobReports(None, "job", logging.getLogger("task"))
    with caplog.at_level(logging.INFO, "task"):
        asyncio.run(reports.report(JobLog(text, len(text)), None))
    assert reports.offset == len(text)
    return caplog.messages


def test_lines_have_no_colour_codes(caplog: pytest.LogCaptureFixture) -> None:
    assert _reported("\x1b[36m(rank 3)\x1b[0m shard is empty\nnext\n", caplog) == ["(rank 3) shard is empty", "next"]


def test_progress_of_the_driver_is_not_shown_twice(caplog: pytest.LogCaptureFixture) -> None:
    times_s = iter([0.0, 100.0])
    log = ProgressLog(logging.getLogger("driver"), lambda: next(times_s))
    with caplog.at_level(logging.INFO, "driver"):
        log.on_progress(PROGRESS)
    (line,) = caplog.messages
    caplog.clear()
    assert _reported(f"2026-11-27 03:00:00,000 INFO {line}\nnext\n", caplog) == ["next"]


def test_lines_have_the_levels_of_the_driver(caplog: pytest.LogCaptureFixture) -> None:
    lines = {
        "2026-11-27 03:00:00,000 INFO run: 1 of 4 ranks to run": "INFO",
        "2026-11-27 03:00:01,000 WARNING run: rank 3 is slow": "WARNING",
        "2026-11-27 03:00:02,000\tERROR worker.py:1 -- lost": "ERROR",
        "ValueError: WARNING": "INFO",
    }
    assert _reported("".join(f"{line}\n" for line in lines), caplog) == list(lines)
    assert [record.levelname for record in caplog.records] == list(lines.values())


def test_progress_is_one_line_in_half_a_minute_and_one_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    reports = JobReports(None, "job", logging.getLogger("task"))
    with caplog.at_level(logging.INFO, "task"):
        for completed in (1, 2, 3, 4):
            asyncio.run(reports.report(JobLog("", 0), replace(PROGRESS, completed=completed)))
    assert [line.split()[0] for line in caplog.messages] == ["1/4", "4/4"]


def test_newest_of_many_lines_are_shown_and_long_ones_cut(caplog: pytest.LogCaptureFixture) -> None:
    first, *shown = _reported("".join(f"{number} {'x' * 3_000}\n" for number in range(250)), caplog)
    assert first.startswith("... 50 lines are left out")
    assert [line.split()[0] for line in shown] == [str(number) for number in range(50, 250)]
    assert max(map(len, shown)) < 2_010


def test_cancellation_keeps_its_message_while_a_thread_works() -> None:
    async def cancelled() -> str:
        released = asyncio.Event()
        loop = asyncio.get_running_loop()
        call = asyncio.create_task(in_thread(lambda: asyncio.run_coroutine_threadsafe(released.wait(), loop).result()))
        await asyncio.sleep(0)
        call.cancel("the task was killed")
        with pytest.raises(asyncio.CancelledError) as error:
            await call
        released.set()
        return str(error.value)

    assert asyncio.run(cancelled()) == "the task was killed"
