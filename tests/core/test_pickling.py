"""What users' scripts hold can be sent to workers, or is refused with the path of what can't be."""

from __future__ import annotations

import functools
import importlib
import pickle
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import cloudpickle
import pytest

from ray_pipeline_core.errors import PipelineLoadError
from ray_pipeline_core.pickling import dumps, is_sent_by_value, module_not_importable
from ray_pipeline_core.pipeline import pack_pipeline

SCRIPT = """
import functools
import importlib
import sys
from pathlib import Path

from loguru import logger
from ray_pipeline_core.pipeline import pack_pipeline

logger.add(open({log!r}, "w"))
calls = []


@functools.cache
def square(number):
    calls.append(number)
    return number**2


class Doubles:
    @functools.cached_property
    def factor(self):
        return square(2) // 2

    def __call__(self, data, rank, world_size):
        logger.bind(rank=rank).info("doubled")
        assert square(3) + square(3) == 18 and calls.count(3) == 1
        return [self.factor * number for number in range(rank, 4)]


Path(sys.argv[1]).write_bytes(pack_pipeline([Doubles()]))
"""
WORKER = """
import pickle, sys
from loguru import logger
logger.remove()
logger.add(sys.stdout, format="{extra[rank]} {message}")
(step,) = pickle.load(open(sys.argv[1], "rb"))
print(step(None, 1, 2))
"""


def run(code: str, *arguments: str) -> str:
    """Run a script in a process of its own, and return what it prints."""
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_everyday_things_of_scripts_are_sent(tmp_path: Path) -> None:
    packed = str(tmp_path / "packed")
    run(SCRIPT.format(log=str(tmp_path / "log")), packed)
    assert run(WORKER, packed).splitlines() == ["1 doubled", "[2, 4, 6]"]


def test_cached_function_of_a_module_is_sent_by_reference() -> None:
    assert pickle.loads(dumps(is_cached)) is is_cached


@functools.cache
def is_cached() -> bool:
    return True


class Client:
    def __init__(self) -> None:
        self.session = {"lock": threading.Lock()}


class Saves:
    def __init__(self, client: Client) -> None:
        self.client = client

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """Do nothing."""


def test_what_cannot_be_sent_is_refused_with_its_path() -> None:
    with pytest.raises(PipelineLoadError, match=r"'Function: Saves' .*\(in pipeline\[1\]\.client\.session\['lock'\]\)"):
        pack_pipeline([[1], Saves(Client())])


def test_closure_that_cannot_be_sent_is_refused_with_its_name() -> None:
    lock = threading.Lock()

    def step(data: Any, rank: int, world_size: int) -> bool:
        return lock.locked()

    with pytest.raises(PipelineLoadError, match=r"\(in lock, which pipeline\[0\] uses\)"):
        pack_pipeline([step])
    with pytest.raises(PipelineLoadError, match=r"\(in lock, which pipeline\[0\]\.func uses\)"):
        pack_pipeline([functools.partial(step)])


def test_object_that_holds_itself_is_searched_once() -> None:
    client = Client()
    client.session["client"] = client  # type: ignore[assignment]
    with pytest.raises(PipelineLoadError, match=r"pipeline\[0\]\.client\.session\['lock'\]"):
        pack_pipeline([Saves(client)])


def test_only_modules_of_users_are_sent_by_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_steps.py").write_text(textwrap.dedent("def step(data, rank, world_size): return [rank]"))
    monkeypatch.syspath_prepend(tmp_path)
    import my_steps  # type: ignore[import-not-found]

    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "more_steps.py").write_text("")
    importlib.import_module("folder.more_steps")

    assert all(map(is_sent_by_value, ("my_steps", "folder", "folder.more_steps")))
    assert not is_sent_by_value("not_imported")
    assert not any(map(is_sent_by_value, ("json", "pytest", "ray_pipeline_core", "sys")))
    by_reference, by_value = dumps([my_steps.step]), dumps([my_steps.step], by_value=["my_steps"])
    for name in ("my_steps", "folder", "folder.more_steps"):
        del sys.modules[name]
    monkeypatch.undo()
    assert (module_not_importable(by_reference), module_not_importable(by_value)) == ("my_steps", None)
    assert pickle.loads(by_value)[0](None, 3, 4) == [3]


@pytest.mark.parametrize("code", ["import no_such_package", "raise RuntimeError('only on weekdays')", "x = 1"])
def test_module_that_is_no_longer_the_same_is_named(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "other_steps.py"
    module.write_text("def step(): ...")
    monkeypatch.syspath_prepend(tmp_path)
    packed = dumps(importlib.import_module("other_steps").step)
    module.write_text(f"{code}  # another length")
    del sys.modules["other_steps"]
    importlib.invalidate_caches()
    assert module_not_importable(packed) == "other_steps"
    sys.modules.pop("other_steps", None)


class Noted(functools.cached_property[int]):
    """A cached property with a life of its own."""


def test_subclass_of_cached_property_keeps_its_class() -> None:
    try:
        packed = dumps(Noted(len))
    except TypeError:  # before Python 3.12 it has a lock, and nobody knows how to rebuild a subclass
        return
    assert type(pickle.loads(packed)) is Noted


class Importing:
    """What a library may register as a module: it imports another one when it is looked at."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError("no module named gone")


@pytest.mark.parametrize(
    "registered",
    [SimpleNamespace(__file__=None, __path__=None), SimpleNamespace(__file__=3, __path__=[3]), Importing(), None],
    ids=["no path", "numbers", "importing", "None"],
)
def test_what_libraries_register_as_a_module_is_not_sent(monkeypatch: pytest.MonkeyPatch, registered: Any) -> None:
    monkeypatch.setitem(sys.modules, "registered", registered)
    assert not is_sent_by_value("registered")


def test_code_that_is_sent_by_value_keeps_the_name_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(data: object, rank: int, world_size: int) -> None:
        raise ValueError("a bad row")

    step.__module__ = "__main__"
    reduce_code = cloudpickle.Pickler.dispatch_table[CodeType]

    def without_file(code: CodeType) -> Any:
        return reduce_code(code.replace(co_filename="<dynamic-code>"))  # as cloudpickle does from 3.1.3 on

    monkeypatch.setitem(cloudpickle.Pickler.dispatch_table.maps[0], CodeType, without_file)
    [read] = pickle.loads(pack_pipeline([step]))
    assert read.__code__.co_filename == __file__
