"""A regularisation term as a case of its own."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from gradvitals.frameworks.case import Case
from gradvitals.frameworks.torch.wrt import own_module
from gradvitals.frameworks.user_code import positionals
from gradvitals.vocabulary.errors import UsageError


def penalty(case: Case, regularisation: Callable[..., Any]) -> Case:
    """The case of a regularisation term: a scalar made of the model, or of nothing that it is given.

    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> term = penalty(Case(layer, (torch.ones(1, 2),)), lambda model: model.weight.square().sum())
    >>> bool(term.model() == layer.weight.square().sum())
    True
    """
    if not callable(regularisation):
        raise UsageError(
            "the regularisation is not a function",
            f"regularisation={type(regularisation).__name__}",
            "give a function of the model: lambda model: 1e-4 * sum(p.square().sum() for p in model.parameters())",
        )
    needed, _ = positionals(regularisation)
    model = own_module(case)
    takes_model = needed >= 1
    if model is None:
        term = (lambda: regularisation(case.model)) if takes_model else regularisation
    else:  # bound to the model, so that its parameters keep their names
        term = types.MethodType(regularisation if takes_model else lambda _: regularisation(), model)
    return Case(term, loss=_itself, name=case.subject)


def _itself(value: Any) -> Any:
    """As a loss, so that what isn't a scalar is refused."""
    return value
