"""The doctests of a framework's side are left out where that framework isn't installed."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("jax") else ["gradvitals/frameworks/jax/*"]
