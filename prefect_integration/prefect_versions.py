"""What the supported releases of Prefect do not have in common."""

from __future__ import annotations

import re
from importlib.metadata import version

RELEASE = tuple(map(int, re.findall(r"\d+", version("prefect"))[:3]))

FINDS_ATTRIBUTES = RELEASE >= (3, 4, 2)
"""Whether Prefect looks for a served flow by the dotted path in `__qualname__`, not by `__name__` as a single name."""
