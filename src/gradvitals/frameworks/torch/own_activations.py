"""Find activations that are modules of the user's own: elementwise, and known by no name."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from gradvitals.frameworks.capture import Call
from gradvitals.frameworks.elementwise import as_activation
from gradvitals.frameworks.torch.state import preserved
from gradvitals.maths.activations import Activation, Array
from gradvitals.vocabulary.errors import UsageError

#: Where two functions are compared, and by how many digits.
_GRID, _DIGITS = np.linspace(-3.0, 3.0, 25), 9
#: Where it is tabulated: at this step a straight line between two entries is exact to 10⁻⁶.
_TABLE = np.linspace(-32.0, 32.0, 32001)
#: Modules of torch that are elementwise and not activations, or random.
_NOT = (nn.Identity, nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def own_activations(model: nn.Module, calls: Sequence[Call]) -> Mapping[str, Activation]:
    """By a call's path: the function of a module that is elementwise, bends, and isn't known by name.

    Modules with parameters are left out, for their function changes. Those that are alike share one function.
    """
    modules = dict(model.named_modules())
    unknown = {call.path for call in calls if _is_candidate(call, calls)}
    found: dict[str, Activation] = {}
    alike: dict[tuple[str, bytes], Activation] = {}
    for path in sorted(unknown):
        module = modules.get(path)
        if module is None or isinstance(module, _NOT) or next(module.parameters(), None) is not None:
            continue
        phi = _function(module)
        if phi is not None:
            values = np.round(phi.value(_GRID), _DIGITS) + 0.0
            key = (phi.name, values.tobytes())
            found[path] = alike[key] = alike.get(key) or _tabulated(phi)
    return found


def _tabulated(phi: Activation) -> Activation:
    """The function read off a table, straight beyond it: thousands of calls of a module take too long."""
    values, slopes = phi.value(_TABLE), phi.slope(_TABLE)

    def value(x: Array) -> Array:
        outside = np.where(x > _TABLE[-1], (x - _TABLE[-1]) * slopes[-1], np.minimum(x - _TABLE[0], 0) * slopes[0])
        return np.asarray(np.interp(x, _TABLE, values) + outside, dtype=np.float64)

    return Activation(phi.name, value, lambda x: np.asarray(np.interp(x, _TABLE, slopes)), phi.kinks)


def _is_candidate(call: Call, calls: Sequence[Call]) -> bool:
    if call.has_weights or call.activation or call.parameters or len(call.sources) != 1:
        return False
    return call.shape == calls[call.sources[0]].shape and "norm" not in call.kind.lower()


def _function(module: nn.Module) -> Activation | None:
    """The module's function, on a copy without hooks; None where it isn't elementwise, or doesn't bend."""
    try:
        alone = copy.deepcopy(module).eval()
        for hooks in (alone._forward_hooks, alone._forward_pre_hooks):  # noqa: SLF001
            hooks.clear()
        with preserved(alone):
            phi = as_activation(alone)
            values = phi.value(_GRID)
    except (UsageError, RuntimeError, TypeError, ValueError):
        return None
    straight = np.interp(_GRID, _GRID[[0, -1]], values[[0, -1]])
    if not np.all(np.isfinite(values)) or np.allclose(values, straight):
        return None
    return phi
