"""JSON that is written with an indent is what Python's own encoder writes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ray_pipeline_core.strict_json import indented_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


@given(VALUES)
def test_indented_json_is_that_of_python(value: Any) -> None:
    assert indented_json(value) == json.dumps(value, indent=4)
