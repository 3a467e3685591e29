"""Runs the stages of the MinHash example with datatrove's own executor: what ours is compared with."""

from __future__ import annotations

import argparse
from pathlib import Path

from datatrove.executor import LocalPipelineExecutor

from examples.minhash_dedup import build_stages


def main() -> None:
    """Run all stages, or one; all its ranks, or only the first ones."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--stage")
    parser.add_argument("--ranks", type=int, default=-1)
    arguments = parser.parse_args()
    for stage in build_stages(arguments.work_dir, arguments.tasks):
        if arguments.stage in (None, stage.name):
            LocalPipelineExecutor(
                stage.pipeline,
                tasks=stage.tasks,
                workers=1,
                local_tasks=arguments.ranks,
                logging_dir=str(arguments.work_dir / "runs" / stage.name),
            ).run()


if __name__ == "__main__":
    main()
