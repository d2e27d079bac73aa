"""Survey a model's weights: what each is, what it looks like now, and what stands around it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gradvitals.frameworks.between import Between
from gradvitals.frameworks.capture import Call, Capture
from gradvitals.frameworks.case import Case
from gradvitals.frameworks.weights import Weight
from gradvitals.vocabulary.errors import InputError
from gradvitals.weights.chains import Chain, chains
from gradvitals.weights.elementwise import with_functions
from gradvitals.weights.neighbours import Neighbours, neighbours
from gradvitals.weights.values import with_values

#: A model that multiplies this many times as often as it makes calls is caught in a loop of its own.
_LONGER = 4


@dataclass(frozen=True, slots=True)
class Survey:
    """The weights of a model.

    Parameters
    ----------
    weights : tuple of Weight
    around : mapping of str to Neighbours
        By the weight's path.
    chains : mapping of str to Chain
        By the weight's path.
    calls : tuple of Call
        What was recorded, or assumed where there was nothing to run.
    order : str
        ``"dataflow"`` where the model was run, ``"modules"`` where the order of its modules was assumed.
    between : tuple of Between or None
        What the model does elementwise between its layers; None where it wasn't run to see that.
    assumed : mapping of str to Neighbours
        Of weights that the pass didn't come by (an expert that no sample went to): by the order of the modules.

    """

    weights: tuple[Weight, ...]
    around: Mapping[str, Neighbours]
    chains: Mapping[str, Chain]
    calls: tuple[Call, ...]
    order: str
    between: tuple[Between, ...] | None = None
    assumed: Mapping[str, Neighbours] = field(default_factory=dict)


def module_of(case: Case) -> Any:
    """The torch module of a case, without the wrapper of ``torch.compile``.

    Raises
    ------
    InputError
        When it isn't a torch module, or has no parameters.

    """
    torch: Any = sys.modules.get("torch")
    model = getattr(case.model, "_orig_mod", case.model)
    if torch is None or not isinstance(model, torch.nn.Module):
        raise InputError(
            "there are no weights to be seen in this model",
            f"got {type(case.model).__name__} {case.subject!r}",
            "pass a torch.nn.Module; for NumPy weights gradvitals.weights.variance tells how large they should be",
        )
    if next(model.parameters(), None) is None:
        raise InputError(
            "the model has no parameters",
            f"{case.subject} holds {sum(1 for _ in model.modules())} module(s) and no parameter",
            "check that its layers are attributes of the module, or in a ModuleList (a plain list hides them)",
        )
    return model


def survey(case: Case, *, seed: int = 0, seen: Capture | None = None, like: Survey | None = None) -> Survey:
    """Look at every weight of a case's model, changing nothing.

    Parameters
    ----------
    case : Case
        With inputs, the model is run once to see what follows what (on the meta device without computing anything), and
        once more, where it is written by hand, to see what it does between its layers. Without, the order of its
        modules is assumed.
    seed : int
        Of the random generators for that pass.
    seen : Capture, optional
        A pass that was recorded already.
    like : Survey, optional
        Of the same model with other weights: what it does between its layers isn't looked for again.

    Raises
    ------
    InputError
        When the model or its inputs can't be worked with.
    ModelError
        When the model raises.

    """
    model = module_of(case)
    from gradvitals.frameworks.torch.between import functions_between
    from gradvitals.frameworks.torch.capture import capture
    from gradvitals.frameworks.torch.inputs import named_inputs, validate
    from gradvitals.frameworks.torch.materialise import is_on_meta
    from gradvitals.frameworks.torch.order import calls_in_module_order
    from gradvitals.frameworks.torch.own_activations import own_activations
    from gradvitals.frameworks.torch.structure import calls_without_values
    from gradvitals.frameworks.torch.weights import Product, weights_of

    if (case.args or case.kwargs) and is_on_meta(model):
        calls, order = calls_without_values(case), "dataflow"
    elif case.args or case.kwargs:
        calls, order = (seen or capture(case, seed=seed, backward=False)).calls, "dataflow"
    else:
        validate(case, valueless=True)
        calls, order = calls_in_module_order(model), "modules"
    first = [call for call in reversed(calls) if call.path in call.parameters]  # of several calls the first counts
    functions = {call.path: Product(call.kind, call.shape[-1], call.parameters) for call in first}
    weights = weights_of(model, functions)
    between = like.between if like else None
    if like is None and (case.args or case.kwargs) and not is_on_meta(model):
        mixing = [weight.path for weight in weights if weight.role == "mixing"]
        between = functions_between(case, mixing, most=_LONGER * len(calls), seed=seed)
    written, own = with_functions(calls, own_activations(model, calls), between or ())
    given = [tuple(x.shape) for _, x in named_inputs(case) if x.is_floating_point()]
    around = with_values(neighbours(written, own), written, given)
    assumed = neighbours(calls_in_module_order(model) if order == "dataflow" else ())
    return Survey(weights, around, chains(written, around, weights), calls, order, between, assumed)
