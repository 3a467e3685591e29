"""Removes near-duplicates from real text with datatrove's four MinHash stages, as four executors with `depends`.

    signatures ── buckets ── clusters ── filter

The text is Python's own standard library, which every machine has: each function and class of a module's top level
is a document. Nothing is downloaded: the English word tokenizer that the stages use needs spaCy, but no model.

python -m examples.minhash_dedup [--work-dir build/minhash_dedup] [--tasks 4]
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from ray_pipeline_core import RayPipelineError, RayPipelineExecutor, RunResult

CONFIG = MinhashConfig()
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])

_LEFT_OUT = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})
_SHOWN_GROUPS = 5


class CorpusError(Exception):
    """There are no documents to work on, or they are not those that the work folder was made for."""


# --- the documents ---


def documents_of(source: Path) -> Iterator[dict[str, str]]:
    """Yields every top-level function and class below `source`, in the order of path and line.

    Tests and installed packages are left out, and so are files that are no valid Python.
    """
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        if _LEFT_OUT.isdisjoint(relative.parts):
            yield from _definitions(path, relative.as_posix())


def _definitions(path: Path, name: str) -> Iterator[dict[str, str]]:
    try:
        with tokenize.open(path) as file:
            text = file.read()
        body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return
    lines = text.split("\n")  # as ast counts them; splitlines() also splits at form feeds
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            source_code = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            yield {"id": f"{name}:{node.lineno}:{node.name}", "text": source_code}


def write_documents(source: Path, work_dir: Path, shards: int) -> int:
    """Writes the documents of `source` as JSONL to `<work_dir>/documents`, or keeps those that an earlier run wrote.

    Args:
        source: the folder with the Python files.
        work_dir: where everything of the deduplication goes.
        shards: number of files to share the documents out to, one per rank.

    Returns:
        The number of documents.

    Raises:
        CorpusError: `source` has no documents, or `work_dir` was made for another source or number of shards.
    """
    manifest = work_dir / "documents.json"
    if manifest.exists():
        return _count_earlier(json.loads(manifest.read_text()), source, work_dir, shards)
    lines = [json.dumps(document) + "\n" for document in documents_of(source)]
    if not lines:
        raise CorpusError(f"{source} has no Python file with a function or class: name another folder with --source")
    folder = work_dir / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        (folder / f"{shard:05d}.jsonl").write_text("".join(lines[shard::shards]))
    # Last, so that it vouches for whole files.
    manifest.write_text(json.dumps({"source": str(source), "shards": shards, "documents": len(lines)}))
    return len(lines)


def _count_earlier(earlier: dict[str, Any], source: Path, work_dir: Path, shards: int) -> int:
    if (earlier["source"], earlier["shards"]) != (str(source), shards):
        raise CorpusError(
            f"{work_dir} holds the documents of {earlier['source']} for --tasks {earlier['shards']}, not those of "
            f"{source} for --tasks {shards}: choose another --work-dir"
        )
    return int(earlier["documents"])


# --- the four stages ---


@dataclass(frozen=True)
class Stage:
    """A stage of the deduplication.

    Attributes:
        name: what it is called.
        pipeline: its steps.
        tasks: the number of ranks it must be cut into.
    """

    name: str
    pipeline: list[Any]
    tasks: int


def build_stages(work_dir: Path, tasks: int = 4) -> list[Stage]:
    """The stages in their order: each reads what the ones before it have left in `work_dir`.

    Args:
        work_dir: where `documents` lies and everything else goes.
        tasks: ranks of the two stages that read the documents. Both must see the same files in the same rank, since
            a document is known by its rank and its place there.
    """

    def reader() -> JsonlReader:
        # The id says where a document comes from; the path of its shard would only differ from machine to machine.
        return JsonlReader(str(work_dir / "documents"), add_file_path=False)

    def writer(name: str) -> JsonlWriter:
        return JsonlWriter(str(work_dir / name), compression=None)

    signatures, buckets, clusters = (str(work_dir / name) for name in ("signatures", "buckets", "clusters"))
    return [
        Stage("signatures", [reader(), MinhashDedupSignature(signatures, CONFIG)], tasks),
        Stage("buckets", [MinhashDedupBuckets(signatures, buckets, config=CONFIG)], CONFIG.num_buckets),
        Stage("clusters", [MinhashDedupCluster(buckets, clusters, CONFIG, save_cluster_size=True)], 1),
        Stage(
            "filter",
            [reader(), MinhashDedupFilter(clusters, writer("removed"), load_cluster_sizes=True), writer("kept")],
            tasks,
        ),
    ]


def build_executors(work_dir: Path, tasks: int = 4, **options: Any) -> RayPipelineExecutor:
    """The executor of the last stage; it depends on the one before, and so on.

    Args:
        work_dir: where `documents` lies and everything else goes, run folders included.
        tasks: ranks of the two stages that read the documents.
        options: further parameters for every `RayPipelineExecutor`.
    """
    executor: RayPipelineExecutor | None = None
    for stage in build_stages(work_dir, tasks):
        executor = RayPipelineExecutor(
            stage.pipeline,
            tasks=stage.tasks,
            depends=executor,
            logging_dir=str(work_dir / "runs" / stage.name),
            name=stage.name,
            **{"mem_per_cpu_gb": 0.5, **options},
        )
    assert executor is not None
    return executor


# --- the command ---


def main(argv: Sequence[str] | None = None) -> int:
    """Deduplicates and prints what was kept and removed; the exit code is 0, or 1 when it failed."""
    arguments = _parse_arguments(argv)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        count = write_documents(arguments.source, arguments.work_dir, arguments.tasks)
        result = build_executors(arguments.work_dir, arguments.tasks, workers=arguments.workers).run()
    except (CorpusError, RayPipelineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(_report(arguments.work_dir, count, result))
    return 0


def _report(work_dir: Path, count: int, result: RunResult) -> str:
    kept, removed = _read_documents(work_dir / "kept"), _read_documents(work_dir / "removed")
    groups = sorted(kept, key=_group_size, reverse=True)[:_SHOWN_GROUPS]
    lines = [
        f"{count} functions and classes in {work_dir / 'documents'}",
        f"{len(kept):7} kept        in {work_dir / 'kept'}",
        f"{len(removed):7} removed     in {work_dir / 'removed'}",
        "The largest groups of near-duplicates, by the one that was kept:",
        *(f"{_group_size(document):7} x {document['id']}" for document in groups),
        f"Stats and logs of every stage: {work_dir / 'runs'}",
        str(result),
    ]
    return "\n".join(lines)


def _read_documents(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines()]


def _group_size(document: dict[str, Any]) -> int:
    # A rank without removals leaves its documents as they are.
    return int(document["metadata"].get("minhash_cluster_size", 1))


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.minhash_dedup",
        description="Remove near-duplicate functions and classes from Python's standard library.",
    )
    parser.add_argument("--work-dir", type=_absolute, default="build/minhash_dedup", help="where everything goes")
    parser.add_argument("--source", type=_absolute, default=STANDARD_LIBRARY, help="a folder with Python files")
    parser.add_argument("--tasks", type=_positive, default=4, help="ranks of the stages that read the documents")
    parser.add_argument("--workers", type=int, default=-1, help="ranks at a time; -1: as many as there is room for")
    return parser.parse_args(argv)


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; give a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
