"""Notifications of a run's end and of its first failure: by a web hook, and by mail."""

from __future__ import annotations

import contextlib
import json
import pickle
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ray_pipeline_core import (
    ConfigError,
    MailNotifier,
    RayPipelineExecutor,
    RunIncompleteError,
    RunObserver,
    RunPlan,
    RunResult,
    WebhookNotifier,
)
from ray_pipeline_core.testing import run_in_process
from tests.support.message_servers import HookServer, MailServer, make_certificate, serving
from tests.support.steps import do_nothing

SECRET = "T01/B02/hunter2"
Run = Callable[..., RunResult]


@pytest.fixture
def hook() -> Iterator[HookServer]:
    server = HookServer()
    with serving(server):
        yield server


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs four ranks with an observer, and returns the result."""

    def run_with(observer: Any, *steps: Any, **parameters: Any) -> RunResult:
        executor = RayPipelineExecutor(
            list(steps) or [do_nothing], tasks=4, logging_dir=tmp_path / "clean", observers=[observer], **parameters
        )
        with contextlib.suppress(RunIncompleteError):
            run_in_process(executor)
        return RunResult.from_dict(json.loads((tmp_path / "clean/result.json").read_text()))

    return run_with


def fail_from_rank_2(data: Any, rank: int, world_size: int) -> None:
    if rank >= 2:
        raise ValueError("no such file")


# --- web hooks ---


def test_end_is_posted_with_the_result(hook: HookServer, run: Run) -> None:
    result = run(WebhookNotifier(f"{hook.url}/{SECRET}?x=1", headers={"Authorization": "Bearer x"}))

    ((path, headers, content),) = hook.posts
    assert path == f"/{SECRET}?x=1"
    assert (headers["Authorization"], headers["Content-Type"]) == ("Bearer x", "application/json")
    assert (content["event"], content["title"]) == ("run_finished", "clean: complete")
    assert content["text"] == f"clean: complete\n{result}"
    plain = result.to_dict()
    assert content["run"] == {name: plain[name] for name in plain if name not in ("failed", "stats")}


def test_first_failure_is_posted_once_and_then_the_end(hook: HookServer, run: Run) -> None:
    run(WebhookNotifier(hook.url), fail_from_rank_2)

    first, last = sorted((content for _, _, content in hook.posts), key=lambda content: str(content["event"]))
    assert (first["event"], first["title"]) == ("first_failure", "clean: a first rank has failed")
    assert first["run"]["failure"]["rank"] == 2
    assert "rank 2: error after 1 attempt(s): ValueError" in first["text"]
    assert (last["event"], last["title"]) == ("run_finished", "clean: 2 of 4 ranks failed")
    assert last["run"]["failure_groups"][0]["count"] == 2
    assert "2 failed: error: ValueError: in step" in last["text"]


def test_notifier_of_runs_that_go_on_at_the_same_time_names_each(hook: HookServer, tmp_path: Path) -> None:
    notifier, both_began = WebhookNotifier(hook.url), threading.Barrier(2)

    class Meeting(RunObserver):
        def on_run_started(self, plan: RunPlan) -> None:
            both_began.wait(60)

    def run_one(name: str) -> None:
        executor = RayPipelineExecutor(
            [fail_from_rank_2], tasks=4, logging_dir=tmp_path / name, observers=[notifier, Meeting()]
        )
        with contextlib.suppress(RunIncompleteError):
            run_in_process(executor)

    with ThreadPoolExecutor() as threads:
        list(threads.map(run_one, ("clean", "count")))

    assert sorted(str(content["title"]) for _, _, content in hook.posts) == [
        *("clean: 2 of 4 ranks failed", "clean: a first rank has failed"),
        *("count: 2 of 4 ranks failed", "count: a first rank has failed"),
    ]


@pytest.mark.parametrize(
    ("chosen", "events"),
    [({"at_end": False}, ["first_failure"]), ({"at_first_failure": False}, ["run_finished"])],
)
def test_only_what_is_wanted_is_posted(hook: HookServer, run: Run, chosen: dict[str, Any], events: list[str]) -> None:
    run(WebhookNotifier(hook.url, **chosen), fail_from_rank_2)
    assert [content["event"] for _, _, content in hook.posts] == events


def test_each_run_has_a_first_failure_of_its_own(hook: HookServer, run: Run) -> None:
    notifier = WebhookNotifier(hook.url, at_end=False)
    for _ in range(2):
        run(pickle.loads(pickle.dumps(notifier)), fail_from_rank_2)
        run(notifier, fail_from_rank_2)
    assert len(hook.posts) == 4


@pytest.mark.parametrize(("status", "problem"), [(500, "status 500"), (302, "status 302"), (404, "status 404")])
def test_refusal_is_a_warning_without_the_secret_and_the_run_goes_on(
    hook: HookServer, run: Run, caplog: pytest.LogCaptureFixture, status: int, problem: str
) -> None:
    hook.status = status
    assert run(WebhookNotifier(f"{hook.url}/{SECRET}")).ok
    assert len(hook.posts) == 1, "a redirect is not followed"
    assert f"WebhookNotifier('{hook.url}/***') could not send its message about 'clean: complete'" in caplog.text
    assert problem in caplog.text
    assert "hunter2" not in caplog.text


def test_server_that_is_not_there_is_a_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    gone = HookServer()
    gone.server_close()
    assert run(WebhookNotifier(f"{gone.url}/{SECRET}")).ok
    assert "Connection refused" in caplog.text
    assert "hunter2" not in caplog.text


def test_server_that_does_not_answer_is_given_up(hook: HookServer, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    hook.release.clear()
    assert run(WebhookNotifier(f"{hook.url}/{SECRET}", timeout_s=0.2)).ok
    hook.release.set()
    assert "timed out" in caplog.text or "has not sent its message within 0.2 s" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "url",
    [f"ftp://host/{SECRET}", f"host/{SECRET}", "", None, f"https:///{SECRET}", f"http://host/{SECRET} ", "http://[x/"],
)
def test_url_that_cannot_be_posted_to_is_refused_without_showing_it(url: Any) -> None:
    with pytest.raises(ConfigError, match=r"the url of a WebhookNotifier .*not shown") as caught:
        WebhookNotifier(url)
    assert "hunter2" not in str(caught.value)


def test_password_in_the_url_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError, match="for host: must not have a user or password; pass headers") as caught:
        WebhookNotifier("https://me:hunter2@host/path")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"headers": ["x"]}, "headers='list': must be a dict of strings"),
        ({"headers": {"x": 1}}, "headers='dict': must be a dict of strings"),
        ({"at_end": False, "at_first_failure": False}, "at_end=False: must be True unless at_first_failure is"),
        ({"at_end": "yes"}, "at_end='yes': must be True or False"),
        ({"timeout_s": 0}, "timeout_s=0: must be a number above 0, in seconds"),
    ],
)
def test_wrong_argument_of_a_web_hook_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WebhookNotifier("https://host", **arguments)


# --- mail ---


def test_end_and_first_failure_are_mailed(run: Run) -> None:
    server = MailServer()
    with serving(server):
        notifier = MailNotifier("127.0.0.1", "runs@here", ["me@here", "you@here"], port=server.port, security="none")
        run(notifier, fail_from_rank_2)

    assert [recipients for recipients, _ in server.mails] == [["me@here", "you@here"]] * 2
    mails = {str(mail["Subject"]): mail for _, mail in server.mails}
    assert mails.keys() == {"clean: a first rank has failed", "clean: 2 of 4 ranks failed"}
    mail = mails["clean: 2 of 4 ranks failed"]
    assert (mail["From"], mail["To"]) == ("runs@here", "me@here, you@here")
    assert mail["Date"]
    assert "2 failed: error: ValueError: in step" in mail.get_content()


def test_name_of_a_run_cannot_add_headers(run: Run) -> None:
    server = MailServer()
    with serving(server):
        notifier = MailNotifier("127.0.0.1", "runs@here", "me@here", port=server.port, security="none")
        run(notifier, name="night\nBcc: all@here \udce9" + "x" * 300)
    ((recipients, mail),) = server.mails
    assert recipients == ["me@here"]
    assert mail["Bcc"] is None
    assert str(mail["Subject"]).startswith("night Bcc: all@here")


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """How a mail server encrypts, with a certificate that this process trusts."""
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_mail_goes_encrypted_to_a_server_that_asks_for_a_login(run: Run, tls: ssl.SSLContext) -> None:
    server = MailServer(tls, login=("me", "hunter2"))
    with serving(server):
        run(MailNotifier("127.0.0.1", "a@b", "c@d", port=server.port, username="me", password="hunter2"))
    assert len(server.mails) == 1


def test_wrong_password_is_a_warning_without_it(
    run: Run, tls: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    server = MailServer(tls, login=("me", "another"))
    with serving(server):
        assert run(MailNotifier("127.0.0.1", "a@b", "c@d", port=server.port, username="me", password="hunter2")).ok
    assert server.mails == []
    assert "could not send its message about 'clean: complete': SMTPAuthenticationError" in caplog.text
    assert "hunter2" not in caplog.text


def test_server_without_encryption_gets_no_mail_unless_that_is_allowed(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    server = MailServer()
    with serving(server):
        assert run(MailNotifier("127.0.0.1", "a@b", "c@d", port=server.port)).ok
    assert server.mails == []
    assert "STARTTLS" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": ""}, "host='': must be a text string that is not empty, or None"),
        ({"sender": "me"}, "sender='me': must be a mail address"),
        ({"recipients": []}, r"recipients=\[\]: must be a list of mail addresses"),
        ({"recipients": ["a@b", "c@d\nBcc: e@f"]}, "recipients=.*: must be a mail address"),
        ({"security": "tls"}, "security='tls': must be 'starttls', 'ssl' or 'none'"),
        ({"port": 0}, "port=0: must be a port, or None"),
        ({"username": "me"}, "the password of a MailNotifier"),
        ({"password": "hunter2"}, "the password of a MailNotifier"),
        ({"username": "me", "password": "hunter2", "security": "none"}, "username='me': would be sent in clear"),
    ],
)
def test_wrong_argument_of_a_mail_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        MailNotifier(**{"host": "mail", "sender": "a@b", "recipients": "c@d"} | arguments)
    assert "hunter2" not in str(caught.value)


def test_password_is_in_no_repr() -> None:
    notifier = MailNotifier("mail", "a@b", "c@d", username="me", password="hunter2")
    assert repr(notifier) == "MailNotifier('mail', 'a@b', ['c@d'])"
