"""What identifies a pipeline in its run folder: differences, changed parameters, stable texts, secrets."""

from __future__ import annotations

import enum
import functools
import json
import re
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core import PipelineStep, get_data_folder
from ray_pipeline_core.fingerprint import Fingerprint, describe_step, stable_string
from ray_pipeline_core.pipeline import Step
from ray_pipeline_core.redaction import HIDDEN, is_secret, without_secrets

SECRET = "hunter2"
Login = namedtuple("Login", ["user", "password"])


@dataclass
class Settings:
    """Parameters as people group them."""

    languages: set[str]
    password: str = SECRET
    login: Any = field(default_factory=lambda: Login("anna", SECRET))


def clean(data: Any, rank: int, world_size: int) -> Any:
    return data


def write(folder: str, password: str, data: Any, rank: int, world_size: int) -> Any:
    return data


class Filter(PipelineStep):
    name = "delays"
    type = "Filter"

    def __init__(self, least: Any = 15, **others: Any) -> None:
        self.least = least
        vars(self).update(others)

    def run(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class Counter:
    """Has stats and no text of its own."""

    def __init__(self) -> None:
        self.stats: dict[str, int] = {}

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class Slotted:
    __slots__ = ("least",)

    def __call__(self, data: Any, rank: int, world_size: int) -> Any:
        return data


class NoText:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Named:
    """An object whose text tells a secret."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def stored(steps: list[Step], world_size: int = 4) -> dict[str, Any]:
    """A fingerprint as it comes back from `executor.json`."""
    plain: dict[str, Any] = json.loads(json.dumps(Fingerprint.of(steps, world_size).to_dict()))
    return plain


# --- differences ----------------------------------------------------------------------------------------------------


def test_same_pipeline_has_no_difference() -> None:
    steps: list[Step] = [[1, 2], clean, functools.partial(write, "out", SECRET), Filter()]
    fingerprint = Fingerprint.of(steps, 4)
    assert fingerprint.differences(stored(steps)) == []
    assert fingerprint.changed_parameters(stored(steps), [0, 1]) == []


def test_other_world_size_is_a_difference() -> None:
    [difference] = Fingerprint.of([clean], 8).differences(stored([clean], 4))
    assert difference == "it was cut into 4 ranks, now into 8"


@pytest.mark.parametrize(
    "steps", [[clean], [clean, clean, Filter()], [Filter(), clean], [clean, Slotted()], [clean, lambda d, r, w: d]]
)
def test_other_steps_are_a_difference_that_names_both(steps: list[Step]) -> None:
    [difference] = Fingerprint.of(steps, 4).differences(stored([clean, Filter()]))
    assert f"were ['{__name__}.clean', '{__name__}.Filter (Filter: delays)'], now [" in difference


def test_both_differences_are_told() -> None:
    assert len(Fingerprint.of([clean], 8).differences(stored([Filter()], 4))) == 2


def test_folder_that_tells_its_world_size_alone_is_compared_by_it() -> None:
    assert Fingerprint.of([clean], 4).differences({"world_size": 4}) == []
    assert len(Fingerprint.of([clean], 5).differences({"world_size": 4})) == 1
    assert Fingerprint.of([clean], 4).changed_parameters({"world_size": 4}, [0, 1]) == []


@pytest.mark.parametrize("make", [Counter, Slotted, lambda: lambda d, r, w: d, lambda: functools.partial(Counter())])
def test_step_without_a_text_of_its_own_is_the_same_step_in_another_process(make: Callable[[], Any]) -> None:
    first, second = make(), make()
    assert first is not second
    assert describe_step(first) == describe_step(second)


@pytest.mark.parametrize(("earlier", "now"), [("__main__", __name__), (__name__, "__main__")])
def test_step_of_a_script_is_the_same_when_its_module_is_imported(earlier: str, now: str) -> None:
    def describe(module: str, least: int) -> Any:
        steps: list[Step] = [clean, functools.partial(write, str(least)), Filter(least)]
        return json.loads(json.dumps(stored(steps)).replace(f'"{__name__}.', f'"{module}.'))

    before, after = describe(earlier, 15), describe(now, 30)
    fingerprint = Fingerprint(after["world_size"], tuple(after["steps"]))
    assert fingerprint.differences(before) == []
    assert len(fingerprint.changed_parameters(before, [0, 1])) == 2


@pytest.mark.parametrize("other", ["other.module.clean", "__main__.tidy", "clean"])
def test_step_of_another_module_or_name_is_another_one(other: str) -> None:
    before = {"world_size": 4, "steps": [{"step": other, "parameters": {}}]}
    assert len(Fingerprint.of([clean], 4).differences(before)) == 1


# --- changed parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "now", "parts"),
    [
        (Filter(15), Filter(30), ["step 1", "Filter: delays", "least (15 -> 30)"]),
        (Filter("a"), Filter(["a"]), ["least ('a' -> ['a'])"]),
        (Filter(1, most=2), Filter(3, most=4), ["least (1 -> 3)", "most (2 -> 4)"]),
        (functools.partial(write, "a"), functools.partial(write, "b"), ["folder ('a' -> 'b')"]),
        (functools.partial(write, folder="a"), functools.partial(write, folder="b"), ["folder ('a' -> 'b')"]),
        ([1, 2], [1, 2, 3], ["step 1 (data)", "items (2 -> 3)"]),
        (Filter("x" * 200), Filter("y" * 200), [f"least ('{'x' * 56}... -> '{'y' * 56}...)"]),
        (Filter(max_tokens=100), Filter(max_tokens=200), ["max_tokens (100 -> 200)"]),
        (Filter(tokenizer="a"), Filter(tokenizer="b"), ["tokenizer ('a' -> 'b')"]),
    ],
)
def test_changed_parameter_is_named_with_both_values(before: Step, now: Step, parts: list[str]) -> None:
    [sentence] = Fingerprint.of([clean, now], 4).changed_parameters(stored([clean, before]), [0, 1])
    assert [part for part in parts if part not in sentence] == []
    assert "; ranks 0-1 keep their old outputs" in sentence


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Filter(object()), Filter(object())),
        (Filter(15), Filter(object())),
        (Filter(object()), Filter(15)),
        (Filter(clean), Filter(print)),
        (Filter([object()]), Filter([object()])),
        (Filter(NoText()), Filter(NoText())),
        (Filter("x" * 501), Filter("y" * 501)),
        (Filter(15, password="a"), Filter(15, password="b")),
        (Filter(15), Filter(15, most=3)),
        (Filter(15, most=3), Filter(15)),
        (functools.partial(write, "out", "old"), functools.partial(write, "out", "new")),
        (Slotted(), Slotted()),
    ],
)
def test_what_has_no_stable_text_or_is_secret_gives_no_warning(before: Step, now: Step) -> None:
    assert Fingerprint.of([now], 4).changed_parameters(stored([before]), [0, 1]) == []


# --- functions that are sent by value -------------------------------------------------------------------------------


def counting(least: int = 3, word: str = "x", password: str = SECRET) -> Step:
    """Return a function that no worker could import."""

    def helper(value: Any) -> bool:
        return value in {"a", "b", word}

    def count(data: Any, rank: int, world_size: int, most: int = least) -> Any:
        return [value for value in data if helper(value) and len(value) < most and password]

    return count


def changes(before: Step, now: Step) -> str:
    return "; ".join(Fingerprint.of([now], 4).changed_parameters(stored([before]), [0]))


def test_function_by_value_is_the_same_when_it_is_defined_again() -> None:
    assert describe_step(counting()) == describe_step(counting())
    assert changes(counting(), counting()) == ""


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        (counting(), counting(least=4), "captured most (3 -> 4)"),
        (counting(), counting(word="y"), "captured word ('x' -> 'y')"),
        (lambda d, r, w: d, lambda d, r, w: [d], "code (Python "),
        (lambda d, r, w: d + 1, lambda d, r, w: d + 2, "code (Python "),
        (lambda d, r, w: d.a, lambda d, r, w: d.b, "code (Python "),
        (lambda d, r, w: [x for x in d if x], lambda d, r, w: [x for x in d if not x], "code (Python "),
        (functools.partial(lambda n, d, r, w: d, 1), functools.partial(lambda n, d, r, w: n, 1), "code (Python "),
        (functools.partial(lambda n, d, r, w: d, 1), functools.partial(lambda n, d, r, w: d, 2), "n (1 -> 2)"),
        (Filter(lambda: 1), Filter(lambda: 2), "least, code (Python "),
    ],
)
def test_function_by_value_that_changed_is_a_changed_parameter(before: Step, now: Step, change: str) -> None:
    assert change in changes(before, now)


def counter_class(start: int) -> Step:
    """Return a step of a class that no worker could import."""

    class LocalFilter(Filter):
        def run(self, data: Any, rank: int, world_size: int) -> Any:
            return self.count(data) + start

        def count(self, data: Any) -> int:
            return len(data)

    class OtherFilter(LocalFilter):
        def count(self, data: Any) -> int:
            return len(data) + 1

    OtherFilter.__qualname__ = LocalFilter.__qualname__
    return OtherFilter() if start < 0 else LocalFilter()


def test_methods_of_a_class_by_value_count_as_functions_do() -> None:
    assert changes(counter_class(1), counter_class(1)) == ""
    assert "captured start (1 -> 2)" in changes(counter_class(1), counter_class(2))
    assert "code (Python " in changes(counter_class(1), counter_class(-1))


def inherited(start: int) -> Step:
    """Return a step whose class has all it does from a base that no worker could import either."""

    class Base(Filter):
        def run(self, data: Any, rank: int, world_size: int) -> Any:
            return super().run(data, rank, world_size) + start

    class Sub(Base):
        pass

    return Sub()


def with_member(kind: Callable[[Any], Any], function: Callable[[Any], Any]) -> Step:
    class WithMember(Filter):
        member = kind(function)

    return WithMember()


def with_helper(least: int) -> Step:
    class Helper:
        @staticmethod
        def keeps(value: int) -> bool:
            return value > least

    class Better(Helper):
        pass

    return lambda data, rank, world_size: [value for value in data if Better.keeps(value)]


def test_inherited_methods_and_those_of_helper_classes_count_too() -> None:
    for make in (inherited, with_helper):
        assert changes(make(1), make(1)) == ""
        assert re.search(r"captured (start|least) \(1 -> 2\)", changes(make(1), make(2)))


@pytest.mark.parametrize("kind", [staticmethod, classmethod, property, functools.cached_property])
def test_members_of_every_kind_count(kind: Callable[[Any], Any]) -> None:
    one, other = (lambda self: 1), (lambda self: 2)
    assert changes(with_member(kind, one), with_member(kind, one)) == ""
    assert "code (Python " in changes(with_member(kind, one), with_member(kind, other))


def with_data_classes() -> Step:
    @dataclass
    class Pair:
        one: int = 1
        more: list[int] = field(default_factory=list)

    class Color(enum.Enum):
        RED = 1

    return lambda data, rank, world_size: [(Pair(), Color.RED) for _ in data]


def test_helper_classes_with_generated_methods_are_the_same_when_they_are_defined_again() -> None:
    assert describe_step(with_data_classes()) == describe_step(with_data_classes())


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (counting(), counting(password="other")),
        (clean, clean),
        (lambda d, r, w: d, lambda d, r, w: d),
        (functools.partial(clean), functools.partial(clean)),
    ],
)
def test_function_whose_code_is_the_same_or_that_is_imported_gives_no_warning(before: Step, now: Step) -> None:
    assert changes(before, now) == ""
    assert SECRET not in json.dumps(describe_step(before))


def test_code_of_another_python_version_is_not_compared() -> None:
    described = json.loads(json.dumps(describe_step(lambda d, r, w: d)).replace("(Python 3.", "(Python 2."))
    assert Fingerprint.of([lambda d, r, w: [d]], 4).changed_parameters({"steps": [described]}, [0]) == []


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from ray_pipeline_core.fingerprint import describe_step

WORDS = {{'alpha', 'beta', 'gamma'}}
LEAST = {least}

def helper(value):
    "{doc}"
    return value in {{'alpha', 'beta', 'gamma', 'delta'}} {body}

def again(value):
    return again(value) or helper(value) or sys.path

def step(data, rank, world_size):
    yield from (value for value in data if again(value) and value in WORDS and len(value) > LEAST)

print(describe_step(step))
"""


def described_in_script(tmp_path: Path, seed: str = "1", doc: str = "", body: str = "", least: int = 1) -> str:
    script = tmp_path / f"script{len(list(tmp_path.iterdir()))}.py"
    root = str(Path(__file__).parents[2])
    script.write_text("#\n" * int(seed) + SCRIPT.format(root=root, doc=doc, body=body, least=least))
    return subprocess.run(
        [sys.executable, str(script)],
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_code_of_a_script_is_the_same_in_every_process_and_on_every_line(tmp_path: Path) -> None:
    first = described_in_script(tmp_path)
    assert "code (Python" in first
    assert "'captured LEAST': '1'" in first
    assert described_in_script(tmp_path, seed="2") == first
    assert described_in_script(tmp_path, doc="Explain.") == described_in_script(tmp_path, doc="Explain more.")


def test_code_of_a_script_tells_what_its_functions_call_and_use(tmp_path: Path) -> None:
    first = described_in_script(tmp_path)
    assert described_in_script(tmp_path, body="or not value") != first
    assert "'captured LEAST': '2'" in described_in_script(tmp_path, least=2)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        # What an earlier release has stored, and the parameter that a newer one hides, hides less of, or leaves out.
        ("'https://h/x?key=hunter2&page=1'", "https://h/x?key=hunter2&page=1"),
        ("'https://h/x?key=hunter2&page=1'", "https://h/x?key=other&page=1"),
        ("'https://hooks.slack.com/services/T/B/hunter2'", "https://hooks.slack.com/services/T/B/hunter2"),
        ("['x-api-key', 'hunter2']", ("x-api-key", "hunter2")),
        ("Client(*** n=3)", Named("Client(password=hunter2, n=3)")),
        ("b'password=hunter2'", b"password=hunter2"),
        ("[\"'postgres://anna:hunter2@db'\"]", {"postgres://anna:hunter2@db"}),
        ("'Server=db;***'", "Server=db;Pwd=hunter2;Timeout=3"),
    ],
)
def test_other_way_to_hide_a_secret_is_no_change(before: str, now: Any) -> None:
    earlier = stored([Filter(now)])
    earlier["steps"][0]["parameters"]["least"] = before
    assert Fingerprint.of([Filter(now)], 4).changed_parameters(earlier, [0]) == []


def test_change_beside_a_secret_is_named_without_it() -> None:
    earlier = stored([Filter()])
    earlier["steps"][0]["parameters"]["least"] = "'https://h/x?key=hunter2&page=1'"
    [sentence] = Fingerprint.of([Filter("https://h/x?key=hunter2&page=2")], 4).changed_parameters(earlier, [0])
    assert "least ('https://h/x?key=***&page=1' -> 'https://h/x?key=***&page=2')" in sentence


def test_name_of_a_step_with_a_secret_is_no_other_step() -> None:
    step = Filter()
    step.name = f"postgres://anna:{SECRET}@db"
    earlier = stored([step])
    earlier["steps"][0]["step"] = f"{__name__}.Filter (Filter: postgres://anna:{SECRET}@db)"
    assert SECRET not in json.dumps(stored([step]))
    assert Fingerprint.of([step], 4).differences(earlier) == []
    earlier["steps"][0]["step"] = f"{__name__}.Filter (Filter: postgres://anna:{SECRET}@other)"
    [difference] = Fingerprint.of([step], 4).differences(earlier)
    assert SECRET not in difference


def test_stats_are_no_parameter() -> None:
    counted = Filter()
    counted.stat_update("flights", value=100)
    assert describe_step(counted) == describe_step(Filter())


def test_folder_of_a_datatrove_step_counts_as_a_parameter(tmp_path: Path) -> None:
    from datatrove.pipeline.readers import JsonlReader

    def reader(name: str) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        return JsonlReader(str(tmp_path / name))

    assert Fingerprint.of([reader("a")], 4).changed_parameters(stored([reader("a")]), [0, 1]) == []
    [sentence] = Fingerprint.of([reader("b")], 4).changed_parameters(stored([reader("a")]), [0, 1])
    assert "data_folder" in sentence


# --- stable texts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [1, 2.5, "a", None, True, b"x", (1, "a"), {"a": [1]}, Path("/data"), re.compile("a+"), int]
)
def test_plain_value_has_a_stable_text(value: Any) -> None:
    assert stable_string(value) is not None


@pytest.mark.parametrize(
    "value", [object(), clean, lambda: 1, iter([1]), [object()], {"a": clean}, NoText(), "x" * 600]
)
def test_value_whose_text_differs_by_process_or_is_long_has_none(value: Any) -> None:
    assert stable_string(value) is None


def test_sets_have_the_same_text_in_every_process() -> None:
    code = (
        "from tests.core.test_fingerprint import *\n"
        "words = {'alpha', 'beta', 'gamma', 'delta'}\n"
        "print(stable_string([words, frozenset(words), {'a': words}, Settings(words)]))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert "alpha" in texts.pop()


def test_folder_has_its_path_as_text(tmp_path: Path) -> None:
    assert stable_string(get_data_folder(str(tmp_path))) == repr(str(tmp_path))
    assert stable_string(get_data_folder("memory://some/where")) == repr("/some/where")


# --- secrets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "DB_PASSWD",
        "passphrase",
        "pwd",
        "client_secret",
        "X-Api-Key",
        "pass",
        "db_pw",
        "session_cookie",
        "sas",
        "token",
        "hf_token",
        "accessToken",
        "api_key",
        "apikey",
        "aws_access_key_id",
        "account_key",
        "connection_string",
        "credentials",
        "private_key",
        "auth",
        "Authorization",
        "X-Amz-Signature",
    ],
)
def test_name_of_a_secret_is_known(name: str) -> None:
    assert is_secret(name, SECRET)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("author", "anna"),
        ("authors", ["anna"]),
        ("author_column", "a"),
        ("tokenizer", "gpt2"),
        ("tokenized", "x"),
        ("key", "a"),
        ("max_tokens", 100),
        ("use_auth", True),
        ("token", None),
        ("least", SECRET),
    ],
)
def test_name_of_something_else_is_not_taken_for_a_secret(name: str, value: Any) -> None:
    assert not is_secret(name, value)


def test_number_is_secret_when_it_is_a_password() -> None:
    assert is_secret("password", 1234)
    assert not is_secret("n_tokens", 1234)


@pytest.mark.parametrize(
    "value",
    [
        {"password": SECRET},
        {"outer": [{"api_key": SECRET}]},
        ({"a": {"token": {"deep": SECRET}}},),
        Settings({"en"}),
        [Settings({"en"})],
        Login("anna", SECRET),
        SimpleNamespace(user="anna", password=SECRET),
        [SimpleNamespace(token=SECRET)],
        Named(f"Client(url='x', api_key='{SECRET}', n=3)"),
        Named(f'Client(token="{SECRET}")'),
        Named(f"Client({{'secret': '{SECRET}'}})"),
        Named(f"<Client password={SECRET}>"),
        Named(f"<Client postgres://anna:{SECRET}@db/flights>"),
        f"postgres://anna:{SECRET}@db/flights",
        {"url": f"https://anna:{SECRET}@host/path"},
        f"Server=db;Password={SECRET};Timeout=3",
        f"https://host/blob?se=1&sig_token={SECRET}&x=1",
        f"curl -H 'Authorization: Bearer {SECRET}'",
        {"headers": {"Authorization": f"Bearer {SECRET}"}},
    ],
)
def test_secret_is_in_no_text(value: Any) -> None:
    assert SECRET not in str(stable_string(value))
    assert SECRET not in json.dumps(describe_step(Filter(value)))
    assert SECRET not in json.dumps(describe_step(functools.partial(clean, value)))


def test_what_is_not_secret_stays_when_a_secret_is_hidden() -> None:
    assert without_secrets({"user": "anna", "password": SECRET, "n": [1, {"token": "x"}]}) == {
        "user": "anna",
        "password": HIDDEN,
        "n": [1, {"token": HIDDEN}],
    }
    assert without_secrets(f"postgres://anna:{SECRET}@db/flights") == "postgres://anna:***@db/flights"
    assert without_secrets(f"https://{SECRET}@github.com/a/b") == "https://***@github.com/a/b"
    assert without_secrets(f"https://store/c?sv=1&sig={SECRET}&se=2") == "https://store/c?sv=1&sig=***&se=2"
    assert stable_string(Named(f"Client(api_key='{SECRET}', n=3)")) == "Client(api_key=***, n=3)"
    assert without_secrets(Settings({"en"})) == {
        "languages": ["'en'"],
        "password": HIDDEN,
        "login": {"user": "anna", "password": HIDDEN},
    }


def test_value_itself_is_left_alone() -> None:
    value = {"password": SECRET, "list": [1]}
    without_secrets(value)["list"].append(2)
    assert value == {"password": SECRET, "list": [1]}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner),
        max_leaves=10,
    ).filter(lambda value: not re.search(r"[:=@]", repr(value).replace("': ", "")))
)
def test_plain_value_without_secrets_is_what_it_was(value: Any) -> None:
    assert without_secrets(value) == value


@pytest.mark.parametrize("make", [lambda: "x" * 300_000, lambda: "token" * 60_000, lambda: "a:b@" * 75_000])
def test_long_text_is_looked_through_in_one_go(make: Callable[[], str]) -> None:
    # What looks back and forth at every character takes hours here, and the test's own limit ends it.
    assert stable_string(make()) is None
