"""The step that counts words, in a module of its own: its workers need not import Ray Data, as no user's would."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ray_pipeline_core import InputFile

MIN_WORDS = 20


def count_words(files: Iterable[InputFile], rank: int, world_size: int, output: Path) -> None:
    """Write the documents with enough words, each with how many it has, into a file of the rank."""
    with (output / f"{rank:05}.jsonl").open("w") as counted:
        for file in files:
            with file.open("rt") as lines:
                for line in lines:
                    document = json.loads(line)
                    words = len(document["text"].split())
                    if words >= MIN_WORDS:
                        counted.write(json.dumps(document | {"words": words}) + "\n")
