"""What a report ran on."""

from __future__ import annotations

import platform
import sys

from gradvitals._version import __version__
from gradvitals.vocabulary.finding import Fact


def environment() -> dict[str, Fact]:
    """Versions of Python, the platform, gradvitals, and of those frameworks that are imported already.

    >>> {"gradvitals", "platform", "python"} <= set(environment())
    True
    """
    versions: dict[str, Fact] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "gradvitals": __version__,
    }
    for name in ("numpy", "torch", "jax"):
        module = sys.modules.get(name)
        if module is not None:
            versions[name] = str(getattr(module, "__version__", "unknown"))
    return versions
