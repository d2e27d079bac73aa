"""The tensors that are differentiated, at a point: parameters moved where they lie, inputs as copies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch

from gradvitals.frameworks.problem import Array
from gradvitals.frameworks.torch.arguments import copied
from gradvitals.frameworks.torch.entries import moved_to, snapshot, wider
from gradvitals.frameworks.torch.memory import Memory
from gradvitals.frameworks.torch.swap import written_in_place
from gradvitals.frameworks.torch.wrt import Key


class Placement:
    """Puts tensors at points near the one where they are.

    Parameters
    ----------
    own : mapping of role and path to tensor
        The user's own tensors.

    """

    def __init__(self, own: Mapping[Key, torch.Tensor]) -> None:
        self._own = own
        #: What they hold at the point itself.
        self.base = {key: snapshot(tensor) for key, tensor in own.items()}
        self.keys = list(own)
        in_place = written_in_place([tensor for key, tensor in own.items() if key[0] == "parameter"])
        self._memory = {key: Memory(tensor, self.base[key]) for key, tensor in own.items() if id(tensor) in in_place}
        self.inputs = [key for key in own if key[0] != "parameter"]

    @contextlib.contextmanager
    def placed(self, moved: Mapping[int, Array], *, differentiable: bool = False) -> Iterator[dict[Key, torch.Tensor]]:
        """The tensors at a point: the model's own parameters, moved in place for a while, and copies of inputs."""
        point, written = dict(self._own), list[Memory]()
        point |= {key: snapshot(self.base[key]) for key in self.inputs}
        copies = dict.fromkeys(self.inputs)
        try:
            for at, values in moved.items():
                key = self.keys[at]
                if key in self._memory:
                    written.append(self._memory[key])
                    written[-1].write(values)
                else:
                    point[key], copies[key] = moved_to(self.base[key], values), None
            if differentiable:
                for key in copies:
                    point[key].requires_grad_()
            yield point
        finally:
            for memory in written:
                memory.restore()

    def widened(self, moved: Mapping[int, Array]) -> dict[Key, torch.Tensor]:
        """Copies of all tensors in float64, some of them moved."""
        elsewhere = {self.keys[at]: values for at, values in moved.items()}
        return {
            key: moved_to(base, elsewhere[key], wider(base.dtype)) if key in elsewhere else copied(base, wide=True)
            for key, base in self.base.items()
        }
