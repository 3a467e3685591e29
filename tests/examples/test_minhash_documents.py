"""The documents that the MinHash example works on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from examples.minhash_dedup import CorpusError, documents_of, main, write_documents

MODULE = """\
import os

VALUE = 1


@staticmethod
def first(x):
    return x
\x0c

class Second:
    def method(self):
        return 2


async def third(): ...
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "package").mkdir(parents=True)
    (folder / "package" / "module.py").write_text(MODULE)
    (folder / "a.py").write_text("def alone(): ...\n")
    return folder


def _written(work_dir: Path) -> dict[str, list[str]]:
    files = sorted((work_dir / "documents").iterdir())
    return {path.name: [json.loads(line)["id"] for line in path.read_text().splitlines()] for path in files}


def test_documents_are_top_level_functions_and_classes_with_their_lines(source: Path) -> None:
    texts = {document["id"]: document["text"] for document in documents_of(source)}

    assert texts == {
        "a.py:1:alone": "def alone(): ...",
        "package/module.py:7:first": "def first(x):\n    return x",
        "package/module.py:11:Second": "class Second:\n    def method(self):\n        return 2",
        "package/module.py:16:third": "async def third(): ...",
    }


@pytest.mark.parametrize("content", [b"def broken(:\n", b"def f(): ...\n\x00", b"# coding: nonsense\n", b"# \xff\n"])
def test_file_that_is_no_python_is_left_out(source: Path, content: bytes) -> None:
    (source / "broken.py").write_bytes(content)

    assert len(list(documents_of(source))) == 4


@pytest.mark.parametrize("folder", ["test", "package/tests", "site-packages/numpy"])
def test_tests_and_installed_packages_are_left_out(source: Path, folder: str) -> None:
    (source / folder).mkdir(parents=True)
    (source / folder / "more.py").write_text("def more(): ...\n")

    assert len(list(documents_of(source))) == 4


def test_source_below_a_folder_called_test_is_read(source: Path) -> None:
    below = source / "test" / "project"
    below.mkdir(parents=True)
    (below / "module.py").write_text(MODULE)

    assert len(list(documents_of(below))) == 3


def test_documents_are_shared_out_evenly(source: Path, tmp_path: Path) -> None:
    assert write_documents(source, tmp_path, shards=3) == 4

    assert _written(tmp_path) == {
        "00000.jsonl": ["a.py:1:alone", "package/module.py:16:third"],
        "00001.jsonl": ["package/module.py:7:first"],
        "00002.jsonl": ["package/module.py:11:Second"],
    }


def test_documents_of_an_earlier_run_are_kept(source: Path, tmp_path: Path) -> None:
    write_documents(source, tmp_path, shards=2)
    before = _written(tmp_path)
    (source / "later.py").write_text("def later(): ...\n")

    assert write_documents(source, tmp_path, shards=2) == 4
    assert _written(tmp_path) == before


def test_other_source_in_the_same_work_folder_is_refused(source: Path, tmp_path: Path) -> None:
    write_documents(source, tmp_path, shards=2)

    with pytest.raises(CorpusError, match=r"holds the documents of .*choose another --work-dir"):
        write_documents(source / "package", tmp_path, shards=2)


def test_other_number_of_ranks_in_the_same_work_folder_is_refused(source: Path, tmp_path: Path) -> None:
    write_documents(source, tmp_path, shards=2)

    with pytest.raises(CorpusError, match=r"for --tasks 2, not those of .* for --tasks 3"):
        write_documents(source, tmp_path, shards=3)


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_command_says_what_to_do_about_a_source_without_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "empty").mkdir()

    exit_code = main(["--work-dir", str(tmp_path / "work"), "--source", str(tmp_path / name)])

    assert exit_code == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / name} has no Python file with a function or class: name another folder with --source\n"
    )
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("tasks", ["0", "-1", "two", ""])
def test_command_refuses_a_wrong_number_of_ranks(capsys: pytest.CaptureFixture[str], tasks: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--tasks", tasks])

    assert ended.value.code == 2
    assert f"argument --tasks: {tasks!r} is not allowed; give a number of 1 or more" in capsys.readouterr().err
