"""The learning rate to start Adam with, from what one of its steps would change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gradvitals.frameworks.capture import Call, Capture, Stream
from gradvitals.frameworks.weights import Weight

#: Relative change of the outputs by one step, if all that it changes added up, at which training starts well.
#: Measured (digits, 50 and 100 layers of ReLU, GELU, tanh, sigmoid, also convolutional, different working points): at
#: 1.5 each reaches 94 % or more in 200 steps; the five that were tried above 4.4 fell back to chance or close to it.
ADDED_UP = 1.5
#: Above this multiple of the advised rate training is known to fail: 4.4 / 1.5.
FAILS_ABOVE = 3.0
#: What most people try first.
USUAL = 1e-3
#: Largest rate that is advised: Adam's steps are then no longer small for the weights themselves.
_LARGEST = 1e-2


def advised(capture: Capture, weights: Mapping[str, Weight]) -> float | None:
    """A learning rate for Adam; None where no layer's inputs and outputs could be seen.

    Adam's first step moves every weight by the learning rate η, each in the direction of its own gradient. A layer's
    outputs then change by up to η·fan_in·RMS(inputs), relative to their standard deviation, and what is changed at
    every layer adds up along the network. The rate is the one at which that sum, along the longest way, is
    :data:`ADDED_UP`. So it falls as one over depth, one over width, and with inputs far from zero mean. What is
    changed in a branch counts by the branch's share of the sum that it ends in: with R branches of 1/R of the stream's
    variance each, all inner layers add up to √R times what one changes, not R times.

    Parameters
    ----------
    capture : Capture
    weights : mapping of str to Weight
        By path.

    References
    ----------
    Yang et al. (2022), Tensor Programs V, appendix: sign-like updates change outputs by fan_in · η.

    """
    calls = capture.calls
    totals: dict[int, float] = {}
    streams = list(enumerate(capture.streams))
    for at, call in enumerate(calls):
        while streams and streams[0][1].after <= at:
            number, stream = streams.pop(0)
            totals[-1 - number] = _added(stream, capture, totals)
        before = max((totals.get(node, 0.0) for node in (call.parents or call.sources)), default=0.0)
        totals[at] = before + _change(call, calls, weights, capture.input_rms)
    totals |= {-1 - number: _added(stream, capture, totals) for number, stream in streams}
    longest = max(totals.values(), default=0.0)
    return min(ADDED_UP / longest, _LARGEST) if 0 < longest < math.inf else None


def _added(stream: Stream, capture: Capture, totals: Mapping[int, float]) -> float:
    """Relative change of a sum: what the stream brings passes either way and stays; the branch's own adds its share."""
    main, branch = (
        max((totals.get(node, 0.0) for node in nodes), default=0.0) for nodes in (stream.main, stream.branch)
    )
    size = math.hypot(_rms(stream.main, capture), stream.branch_rms)
    share = stream.branch_rms / size if 0 < size < math.inf else 1.0
    return main + max(branch - main, 0.0) * share


def _rms(nodes: Sequence[int], capture: Capture) -> float:
    """Of the largest of some nodes; of none the model's input."""
    found = [capture.calls[at] if at >= 0 else capture.streams[-1 - at] for at in nodes]
    return max((node.forward.rms for node in found), default=capture.input_rms or 0.0)


def _change(call: Call, calls: Sequence[Call], weights: Mapping[str, Weight], input_rms: float | None) -> float:
    """Relative change of a layer's outputs per unit of the learning rate; 0 of what has no weights that mix."""
    fans = [weights[path].fan_in or 0 for path in call.parameters if path in weights]
    given = [calls[source].forward.rms for source in call.sources] or [input_rms or 0.0]
    fan_in, size = max(fans, default=0), max(given)
    if not call.has_weights or not fan_in or not 0 < call.forward.std < math.inf or not size < math.inf:
        return 0.0
    return fan_in * size / call.forward.std
