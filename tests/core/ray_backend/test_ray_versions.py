"""What is said about features that the installed release of Ray does not have."""

from __future__ import annotations

import pytest

from ray_pipeline_core import ConfigError
from ray_pipeline_core.ray_backend.ray_versions import check_supported


@pytest.mark.parametrize(
    ("option", "installed", "needed"),
    [("label_selector", "2.9.3", "2.49"), ("fallback_strategy", "2.49.2", "2.51")],
)
def test_option_of_a_newer_release_is_refused_with_both_versions(option: str, installed: str, needed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_supported(["num_cpus", option], installed)
    assert f"ray_remote_kwargs['{option}']: needs Ray {needed} or newer, and Ray {installed} is" in str(caught.value)


@pytest.mark.parametrize("installed", ["2.51.0", "2.60.0rc1", "3.0.0.dev0"])
def test_option_is_left_to_a_release_that_has_it(installed: str) -> None:
    check_supported(["num_cpus", "label_selector", "fallback_strategy"], installed)
