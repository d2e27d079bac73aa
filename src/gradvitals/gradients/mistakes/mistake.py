"""What a recogniser says of a wrong gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gradvitals.vocabulary.finding import Estimate, Fact


@dataclass(frozen=True, slots=True)
class Mistake:
    """The likely mistake.

    ``likely`` is one of the kinds below; ``factor`` is numeric / analytic where one number explains everything,
    ``name`` what the missing or extra factor is called; ``facts`` is the rest of the evidence.

    ==================== ===============================================================================================
    sign                 numeric is −1 × analytic
    factor-missing       numeric is ``factor`` × analytic; ``name`` says what was forgotten
    factor-extra         the same, where something was applied that doesn't belong there
    zero                 zero everywhere
    transposed           the entries are right but for an exchange of ``axes``
    flipped              right but reversed along ``axes``
    rolled               right but shifted by ``shift`` along ``axis``
    permuted             right but for the order along ``axis``
    exchanged            what was given is the gradient of ``other``, and the other way round
    gradient-of-other    what was given is the gradient of ``other``
    operand-permuted     the backward pass uses ``other`` transposed, flipped or exchanged (``how``)
    term-own             numeric − analytic is ``coefficient`` × the tensor itself (weight decay)
    term-sign            … × its sign (lasso)
    term-constant        … everywhere
    term-other           … × the values of ``other``
    term-cotangent       … × the upstream gradient (a skip connection)
    term-output          … × the function's value
    term-gradient        … × the gradient of ``other``
    term-transposed      … × the transposed gradient (half of a product rule)
    broadcast            one gradient repeated along ``axis``, where each position has its own
    sum-missing          what comes through a ``part`` of the output is left out of the sum for a broadcast tensor
    output-ignored       what comes through a ``part`` of the output doesn't reach the gradient
    output-factor        what comes through a ``part`` of the output should be ``output_factor`` times as much
    conjugated           right when ``conjugate_of`` is conjugated
    statistic-wrong      the way through a ``statistic`` is there, in a wrong amount
    slice                wrong in one ``region`` only: rows, columns, channels, a block
    entries              wrong in single entries, or where a ``condition`` holds
    ignores-cotangent    the same whatever comes from above
    not-linear           not linear in what comes from above; ``degree`` is 2 where it is squared
    accumulates          each call adds to the one before
    stale                computed from values that are out of date (``unfollowed``: tensors that it should change with)
    detached             a part of the way back is cut (``statistic``: what was taken for a constant)
    precision            right in formula: the same backward pass in float64 is right
    formula              none of these
    ==================== ===============================================================================================
    """

    likely: str
    confidence: float
    factor: Estimate | None = None
    name: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
