"""Judge whether the scheme that the weights look like suits the activations behind them: rule W303."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator

from gradvitals.vocabulary.finding import Fact, Finding, Severity, Site
from gradvitals.vocabulary.rule import Rule, Threshold
from gradvitals.weights.departures import Departure, departures, scheme_name
from gradvitals.weights.depth_cost import Chained, chained
from gradvitals.weights.measure import Survey
from gradvitals.weights.named_schemes import NEAR_ON_AVERAGE, looks_like

_SOURCE = (
    "as for W301; 100 tanh layers under He (× 155 on the gradient, measured) reach 26 % on digits where Xavier reaches "
    "57 %, and 50 under He (× 12) no less than Xavier (84 %)"
)
SCHEME_MISMATCHED = Rule(
    "W303",
    Severity.WARNING,
    {
        "least": Threshold(1e-3, "factor on the RMS over depth", _SOURCE),
        "most": Threshold(70.0, "factor on the RMS over depth", _SOURCE),
    },
)


def scheme_mismatched(survey: Survey, fitted: Collection[str] = ()) -> Iterator[Finding]:
    """One finding for the chain that a scheme with a name, made for another activation, harms the most."""
    found = departures(survey, fitted)
    summaries = {weight.path: weight.summary for weight in survey.weights}
    chains = chained(survey.calls, found, survey.around, summaries)
    # of two that are as good as lost, the longer one names more of the layers
    worst = max(chains, key=lambda chain: (_harm(chain), len(chain.paths)), default=None)
    if worst is None or _harm(worst) <= 1:
        return
    layers = [found[path] for path in dict.fromkeys(worst.paths)]
    name = looks_like([layer.recipe.weight for layer in layers])
    if not name or abs(math.log(_mean_ratio(layers))) < math.log(NEAR_ON_AVERAGE):
        return
    # the first layer sees data, and needs another gain
    scheme = Counter(scheme_name(layer.recipe) for layer in layers).most_common(1)[0][0]
    recipe = next(layer.recipe for layer in layers if scheme_name(layer.recipe) == scheme)
    facts: dict[str, Fact] = {
        "paths": tuple(layer.recipe.weight.path for layer in layers),
        "layers": len(layers),
        "looks_like": name,
        "activation": recipe.activation or "identity",
        "scheme": scheme,
        "ratio": 1 / _mean_ratio(layers),
        "signal": worst.forward_factor,
        "gradient": worst.backward_factor,
    }
    yield Finding("W303", SCHEME_MISMATCHED.severity, Site(recipe.weight.path), facts)


def _harm(chain: Chained) -> float:
    """How far signal or gradient are beyond what is sound; 1 at the edge."""
    least, most = SCHEME_MISMATCHED["least"], SCHEME_MISMATCHED["most"]
    factors = chain.forward_factor, chain.backward_factor
    return max(max(factor / most, least / factor) for factor in factors)


def _mean_ratio(layers: list[Departure]) -> float:
    return math.exp(sum(math.log(layer.ratio) for layer in layers) / len(layers))
