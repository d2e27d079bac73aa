"""Which method a whole network gets under ``"auto"``, and why."""

from __future__ import annotations

from dataclasses import dataclass

from gradvitals.weights.measure import Survey
from gradvitals.weights.neighbours import is_normalisation

#: Activations in a row, with neither a normalisation nor a sum in between, from which on a chain counts as deep.
_DEEP = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """A method for a whole network.

    Parameters
    ----------
    method : str
    reason : str
        A key of the locale's ``[value]`` section.
    depth : int
        Activations of the longest chain.
    branches : int
        Residual branches that no normalisation ends.

    """

    method: str
    reason: str
    depth: int
    branches: int


def choose(survey: Survey, method: str) -> Choice:
    """Choose a method where that is left open.

    - A deep chain that nothing holds, neither a normalisation nor a skip connection: ``tailored``.
    - Residual branches that no normalisation ends: ``calibrated``, for what attention averages is smaller than theory
      without data can know. Measured (twelve layers of attention without
      normalisations, a short text task, 200 Adam steps at 1e-3): 100 %, against 73 % with the scale from theory.
    - Normalisations, which take any scale: ``analytic``.
    - Else ``calibrated``, for what gates, recurrence and pooling pass on isn't known without data either. Measured
      (digits, 200 Adam steps at 1e-3): an LSTM 92.4 %, and 90.8 % by theory; twelve gated linear units 95.1 and 92.2 %.
    """
    fed = [chain.depth for path, chain in survey.chains.items() if survey.around[path].feeds]
    depth = max(fed, default=0)
    branches = max((near.branches for near in survey.around.values() if not near.normalised), default=1)
    if method != "auto":
        return Choice(method, "asked-for", depth, branches)
    if depth >= _DEEP:
        return Choice("tailored", "plain-deep", depth, branches)
    if branches > 1:
        return Choice("calibrated", "residual-unnormalised", depth, branches)
    if any(is_normalisation(call) for call in survey.calls):
        return Choice("analytic", "held-by-normalisation", depth, branches)
    return Choice("calibrated", "shallow", depth, branches)
