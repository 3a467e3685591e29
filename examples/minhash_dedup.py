"""Removes near-duplicates from real text with datatrove's four MinHash stages, as four executors with `depends`.

    signatures ── buckets ── clusters ── filter

The text is Python's standard library, which every machine has: each top-level function or class of a module is a
document. Nothing is downloaded: the stages use the English word tokenizer of spaCy, which needs no model.

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

_EXCLUDED_FOLDERS = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test"})
_REPORTED_GROUPS = 5


class CorpusError(Exception):
    """There are no documents, or the work folder was made for others."""


# --- the documents ---


def documents_of(source: Path) -> Iterator[dict[str, str]]:
    """Yield every top-level function and class below `source`, in the order of path and line.

    Tests, installed packages and files that are not valid Python are left out.
    """
    for path in sorted(source.rglob("*.py")):
        relative = path.relative_to(source)
        if _EXCLUDED_FOLDERS.isdisjoint(relative.parts):
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
    """Write the documents of `source` as JSONL to `<work_dir>/documents`, or keep those that an earlier run wrote.

    Args:
        source: the folder with the Python files.
        work_dir: the folder for all files of the deduplication.
        shards: number of files to write, one per rank.

    Returns:
        The number of documents.

    Raises:
        CorpusError: `source` has no documents, or `work_dir` was made for another source or number of shards.
    """
    manifest = work_dir / "documents.json"
    if manifest.exists():
        return _count_documents(json.loads(manifest.read_text()), source, work_dir, shards)
    lines = [json.dumps(document) + "\n" for document in documents_of(source)]
    if not lines:
        raise CorpusError(f"{source} has no Python file with a function or class: name another folder with --source")
    folder = work_dir / "documents"
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        (folder / f"{shard:05d}.jsonl").write_text("".join(lines[shard::shards]))
    # Written last, so that where it exists the documents are complete.
    manifest.write_text(json.dumps({"source": str(source), "shards": shards, "documents": len(lines)}))
    return len(lines)


def _count_documents(manifest: dict[str, Any], source: Path, work_dir: Path, shards: int) -> int:
    if (manifest["source"], manifest["shards"]) != (str(source), shards):
        raise CorpusError(
            f"{work_dir} holds the documents of {manifest['source']} for --tasks {manifest['shards']}, not those of "
            f"{source} for --tasks {shards}: choose another --work-dir"
        )
    return int(manifest["documents"])


# --- the four stages ---


@dataclass(frozen=True)
class Stage:
    """A stage of the deduplication.

    Attributes:
        name: its name.
        pipeline: its steps.
        tasks: the number of ranks that it must have.
    """

    name: str
    pipeline: list[Any]
    tasks: int


def build_stages(work_dir: Path, tasks: int = 4) -> list[Stage]:
    """Return the stages in the order in which they run; each reads files that earlier ones wrote to `work_dir`.

    Args:
        work_dir: the folder with `documents`, to which all other files are written.
        tasks: ranks of the two stages that read the documents. Both must see the same files in the same rank, because
            a document is identified by its rank and its position there.
    """

    def reader() -> JsonlReader:
        # The id identifies a document; the path of its shard would make the output differ from machine to machine.
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
    """Return the executor of the last stage; each executor depends on the one before.

    Args:
        work_dir: the folder with `documents`, to which all other files are written, run folders included.
        tasks: ranks of the two stages that read the documents.
        **options: further parameters of every `RayPipelineExecutor`.
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
    """Deduplicate, print a report, and return the exit code: 0, or 1 if the run failed."""
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
    groups = sorted(kept, key=_group_size, reverse=True)[:_REPORTED_GROUPS]
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
    # Only ranks that remove documents add the size.
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
