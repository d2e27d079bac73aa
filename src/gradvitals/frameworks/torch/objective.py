"""What is differentiated: how a model's output, of whatever type, becomes one scalar."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gradvitals.frameworks.torch.draws import generator_for
from gradvitals.vocabulary.errors import InputError, ModelError, UsageError


class Objective:
    """What of an output is differentiated.

    Parameters
    ----------
    loss : callable, optional
        Maps the output to a scalar tensor.
    outputs : str, int, or sequence of them, optional
        Paths or patterns of tensors in the output (``"logits"``, ``"states[0]"``, ``"states"`` for all in it), or the
        places of items in a tuple. All real and complex tensors when not given, or the output's own scalar ``loss``.
    call : str
        What gave the output, for messages.

    Examples
    --------
    >>> output = {"logits": torch.ones(2), "states": (torch.zeros(1), torch.ones(3))}
    >>> Objective(None, "states[1]").of(output)
    ({'output.states[1]': tensor([1., 1., 1.])}, 'random')

    """

    def __init__(self, loss: Callable[[Any], Any] | None = None, outputs: Any = None, call: str = "the model") -> None:
        if loss is not None and outputs is not None:
            raise UsageError(
                "loss= and outputs= both say what is differentiated",
                f"outputs={outputs!r} with a loss",
                "leave one out: a loss picks from the output what it needs",
            )
        self._loss = loss
        self._wanted = None if outputs is None else _listed(outputs)
        self._call = call
        #: Paths of outputs that are left out, because no gradient can come back from them.
        self.left_out: tuple[str, ...] = ()

    def of(self, output: Any) -> tuple[dict[str, torch.Tensor], str]:
        """The tensors to differentiate by their paths, and how they came to be: see :func:`scalar`."""
        if self._wanted is not None:
            chosen = self._chosen(output, self._wanted)
            (path, first), *more = chosen.items()
            alone = not more and first.is_floating_point() and first.numel() == 1
            return ({path: first.reshape(())}, "output-loss") if alone else (chosen, "random")
        value, kind = scalar(output, self._loss)
        if value is not None:
            return {"loss": value}, kind
        found = {path: tensor for path, tensor in differentiable(output).items() if path not in self.left_out}
        if not found:
            raise InputError(
                "the output holds no floating-point tensor",
                f"{self._call} returned {type(output).__name__}",
                "give a loss= that makes a scalar of it",
            )
        return found, kind

    def leave_out(self, without_gradient: Sequence[str]) -> bool:
        """Leave outputs out that no gradient can come back from, unless they were asked for; whether any was."""
        self.left_out = () if self._wanted is not None else tuple(without_gradient)
        return bool(self.left_out)

    def _chosen(self, output: Any, wanted: Sequence[str | int]) -> dict[str, torch.Tensor]:
        found = differentiable(output)
        shown = {path: path.removeprefix("output").removeprefix(".") for path in found}
        chosen: set[str] = set()
        for item in wanted:
            fits = [path for path, name in shown.items() if _fits(name, item, output)]
            if not fits:
                names = ", ".join(name or "the output itself (leave outputs= out)" for name in shown.values())
                raise UsageError(
                    f"no output is called {item!r}",
                    f"{self._call} returned {_describe(output)}",
                    f"there are: {names}" if names else "it holds no floating-point tensor",
                )
            chosen.update(fits)
        return {path: tensor for path, tensor in found.items() if path in chosen}


def _listed(outputs: Any) -> list[str | int]:
    """The names and places that are wanted, as a list. Raises UsageError where they are neither."""
    listed = [outputs] if isinstance(outputs, (str, int)) or not isinstance(outputs, Iterable) else list(outputs)
    for item in listed:
        if not isinstance(item, (str, int)):
            raise UsageError(
                "outputs= names something that is no output",
                f"it holds {type(item).__name__}: {item!r}",
                "give names or patterns ('logits'), places in a tuple (1), or several of them",
            )
    return listed


def _fits(name: str, wanted: str | int, output: Any) -> bool:
    """Whether a path is the one wanted, lies in it, or fits it as a pattern."""
    if isinstance(wanted, int):
        keys = list(_items(output))
        if not -len(keys) <= wanted < len(keys):
            return False
        wanted = keys[wanted]
    if name == wanted or (name.startswith(wanted) and name[len(wanted) : len(wanted) + 1] in {".", "["}):
        return True
    return fnmatch.fnmatchcase(name, wanted.replace("[", "[[]"))  # brackets are places, not sets of letters


def _items(output: Any) -> Iterable[str]:
    """The paths of an output's own items."""
    if isinstance(output, Mapping):
        return [str(key) for key in output]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return list(output._fields)
    if isinstance(output, (tuple, list)):
        return [f"[{at}]" for at in range(len(output))]
    if dataclasses.is_dataclass(output):
        return [field.name for field in dataclasses.fields(output)]
    return [""]


def scalar(output: Any, loss: Callable[[Any], Any] | None) -> tuple[torch.Tensor | None, str]:
    """Turn an output into the scalar that is differentiated.

    Parameters
    ----------
    output : any
        What the model returned.
    loss : callable, optional
        Maps the output to a scalar tensor.

    Returns
    -------
    value : torch.Tensor or None
        A tensor of shape (), or None where there is neither a loss nor a scalar in the output: then the caller sends
        back a random cotangent.
    kind : str
        ``"loss"``; ``"output-loss"`` for the output's own ``loss`` (attribute or key), or an output that is a scalar;
        ``"random"`` for None.

    Raises
    ------
    ModelError
        When the loss raises.
    InputError
        When the loss isn't a real scalar tensor.

    Examples
    --------
    >>> y = torch.tensor([1.0, 2.0])
    >>> scalar(y, lambda y: y.sum()), scalar({"loss": y[0]}, None), scalar(y, None)
    ((tensor(3.), 'loss'), (tensor(1.), 'output-loss'), (None, 'random'))

    """
    if loss is not None:
        try:
            value = loss(output)
        except Exception as error:
            raise ModelError(
                "the loss raised",
                f"{type(error).__name__}: {error}",
                f"it is called with the model's output, here {_describe(output)}; call it by hand to see it fail",
            ) from error
        return _require_scalar(value), "loss"
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    for candidate in (own, output):
        if isinstance(candidate, torch.Tensor) and candidate.is_floating_point() and candidate.numel() == 1:
            return candidate.reshape(()), "output-loss"
    return None, "random"


def cotangents(tensors: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """Random cotangents of unit RMS, one per tensor, like it; the global generator isn't touched."""
    # Not the seed itself: the model's dropout, and often the user's inputs, are drawn by that one.
    generator = generator_for("cotangent", seed)
    drawn = [torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu") for tensor in tensors]
    return [
        (noise / noise.square().mean().sqrt()).to(tensor.device, tensor.dtype)
        for noise, tensor in zip(drawn, tensors, strict=True)
    ]


def output_tensors(output: Any, name: str = "output") -> list[tuple[str, torch.Tensor]]:
    """All floating-point tensors of an output, with their paths in it.

    >>> [path for path, _ in output_tensors({"logits": torch.ones(2), "states": (torch.ones(1), torch.tensor(3))})]
    ['output.logits', 'output.states[0]']
    """
    return [(path, tensor) for path, tensor in tensors_in(output, name) if tensor.is_floating_point()]


def differentiable(output: Any, name: str = "output") -> dict[str, torch.Tensor]:
    """All real and complex tensors of an output, by their paths in it.

    >>> list(differentiable((torch.ones(2), torch.tensor(1j), torch.tensor(3))))
    ['output[0]', 'output[1]']
    """
    return {path: t for path, t in tensors_in(output, name) if t.is_floating_point() or t.is_complex()}


def tensors_in(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor in nested tuples, lists, mappings and dataclasses, with its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from tensors_in(item, f"{name}.{key}")
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for key, item in zip(value._fields, value, strict=True):
            yield from tensors_in(item, f"{name}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from tensors_in(item, f"{name}[{index}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name, None), f"{name}.{field.name}")


def _require_scalar(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() == 1:
        return value.reshape(()) if value.ndim else value
    if not isinstance(value, torch.Tensor):
        raise InputError(
            "the loss is not a tensor",
            f"it returned {_describe(value)}",
            "return the tensor itself: no .item(), float() or .numpy() inside the loss",
        )
    if not value.is_floating_point():
        raise InputError(
            "the loss is not a real number",
            f"it returned {_describe(value)}",
            "return a floating-point tensor; counts and classes have no slope",
        )
    raise InputError(
        "the loss is not a scalar",
        f"it returned {_describe(value)}",
        "reduce it to one number, for example with .mean() or .sum()",
    )


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    return f"{type(value).__name__}"
