"""The pytest fixture ``assert_gradients``; pytest finds this module by its entry point.

Nothing heavy is imported before a test asks for the fixture: this module is loaded in every run of pytest.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest


@pytest.fixture
def assert_gradients(request: pytest.FixtureRequest) -> Any:
    """Assert that gradients agree with measured slopes: ``assert_gradients(fn, *inputs, sensitivity=1e-3)``.

    It is :func:`gradvitals.assert_gradients`, and the report bears the test's name.
    """
    from gradvitals.gradients.assertion import assert_gradients as check

    return functools.partial(check, name=request.node.name)
