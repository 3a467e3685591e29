"""Secrets in what is logged, and in the causes of errors."""

from __future__ import annotations

import builtins
import pickle
import sys
import traceback

import pytest

from ray_pipeline_core import ConfigError, PipelineLoadError, RunIncompleteError
from ray_pipeline_core.pipeline import load_pipeline
from ray_pipeline_core.redaction import cause_to_show, get_logger

S = "hunter2XyZ"


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def fail(message: str) -> None:
    raise ValueError(message)


def test_record_has_no_secret_in_its_message_and_traceback(caplog: pytest.LogCaptureFixture) -> None:
    logger = get_logger("ray_pipeline_core.test")
    try:
        fail(f"password={S}")
    except ValueError:
        logger.exception("could not reach %s", f"https://u:{S}@h")
    assert S not in caplog.text
    assert "could not reach https://u:***@h" in caplog.text
    assert "in fail" in caplog.text
    assert "ValueError: password=***" in caplog.text


def test_record_without_a_secret_keeps_its_error(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("broken")
    get_logger("ray_pipeline_core.test").error("no", exc_info=error)
    [record] = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_argument_that_cannot_be_shown_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    get_logger("ray_pipeline_core.test").warning("lost %r", Hostile())
    assert caplog.messages == ["lost %r (its arguments can't be shown)"]


def test_cause_with_a_secret_is_replaced_and_any_other_kept() -> None:
    plain = ValueError("broken")
    assert cause_to_show(plain) is plain
    inner = ValueError("outer")
    inner.__cause__ = OSError(f"password={S}")
    replaced = cause_to_show(inner)
    assert S not in str(replaced)
    assert "ValueError: outer" in str(replaced)


def connect(token: str) -> None:
    raise ConnectionError("refused")


def test_cause_whose_source_code_alone_looks_secret_is_kept() -> None:
    with pytest.raises(ConnectionError) as caught:
        connect(token=S)
    assert "token=S" in "".join(traceback.format_exception(caught.value))
    assert cause_to_show(caught.value) is caught.value


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has neither notes nor groups")
def test_cause_with_a_secret_in_a_note_a_context_or_a_group_is_replaced() -> None:
    noted, late = ValueError("x"), ValueError("x")
    vars(noted)["__notes__"] = [f"password={S}"]
    late.__context__ = noted
    for error in (noted, late, vars(builtins)["ExceptionGroup"]("x", [OSError(1, f"token={S}")])):
        replaced = cause_to_show(error)
        assert replaced is not error
        assert S not in str(replaced)


@pytest.mark.parametrize("kind", [ConfigError, PipelineLoadError, RunIncompleteError])
def test_message_of_an_error_has_no_secret_before_and_after_pickling(kind: type[Exception]) -> None:
    error = kind(f"name='postgres://a:{S}@h': must be shorter")
    assert str(error) == "name='postgres://a:***@h': must be shorter"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def factory(dsn: str) -> None:
    raise ConnectionError(f"can't connect to {dsn}")


def test_error_of_a_factory_is_told_with_its_traceback_and_without_the_secret() -> None:
    with pytest.raises(PipelineLoadError) as caught:
        load_pipeline(f"{__name__}:factory", {"dsn": f"postgres://a:{S}@h"})
    printed = "".join(traceback.format_exception(caught.value))
    assert S not in printed
    assert "can't connect to postgres://a:***@h" in printed
    assert "in factory" in printed
