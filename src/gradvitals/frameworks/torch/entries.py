"""A tensor as a flat row of real numbers and back: complex ones as pairs, sparse ones as their values."""

from __future__ import annotations

import torch

from gradvitals.frameworks.problem import Array, Tensor

_WIDE = {
    torch.float32: torch.float64,
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.complex64: torch.complex128,
    torch.complex32: torch.complex128,
}


def wider(dtype: torch.dtype) -> torch.dtype:
    """The dtype of 64-bit reals that holds this one; integers stay."""
    return _WIDE.get(dtype, dtype)


def unit_roundoff(dtype: torch.dtype) -> float:
    """Of a complex dtype that of its real part.

    >>> unit_roundoff(torch.complex64) == unit_roundoff(torch.float32) == 2.0**-24
    True
    """
    return torch.finfo(dtype).eps / 2


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """Of the real part of a complex dtype, else the dtype itself.

    >>> real_dtype(torch.complex64), real_dtype(torch.float16)
    (torch.float32, torch.float16)
    """
    return dtype.to_real()


def can_be_moved(value: object) -> bool:
    """Whether it is a tensor of real or complex numbers."""
    return isinstance(value, torch.Tensor) and (value.is_floating_point() or value.is_complex())


def snapshot(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of its own, coalesced if it is sparse."""
    if tensor.layout == torch.sparse_coo:
        return tensor.detach().coalesce().clone()
    return tensor.detach().clone()


def described(path: str, role: str, tensor: torch.Tensor, roundoff: float) -> Tensor:
    """What is known of a tensor, its roundoff not below that of the computation."""
    values = _values(tensor)
    return Tensor(
        path,
        role,
        (*values.shape, 2) if values.is_complex() else tuple(values.shape),
        str(tensor.dtype).removeprefix("torch."),
        max(unit_roundoff(tensor.dtype), roundoff),
        is_complex=tensor.is_complex(),
    )


def flat(tensor: torch.Tensor) -> Array:
    """All entries as float64, of shape (size,): real and imaginary part beside each other; sparse ones as values."""
    values = _values(tensor).detach()
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if values.dtype != torch.float64 or not values.is_cpu:
        values = values.to("cpu", torch.float64)
    array: Array = values.numpy().reshape(-1)
    return array


def flat_gradient(gradient: torch.Tensor, base: torch.Tensor) -> Array:
    """A gradient's entries as those of its tensor are ordered; of a sparse tensor, at the places of its values."""
    if gradient.layout != torch.strided:
        gradient = gradient.detach().to_dense()
    if base.is_complex() and not gradient.is_complex():
        gradient = gradient.to(base.dtype)
    if base.layout != torch.strided:
        count = _values(base).numel()
        numbered = filled(base, torch.arange(1, count + 1, dtype=torch.float64, device="cpu"), torch.float64).to_dense()
        places = numbered.nonzero(as_tuple=True)
        order = (numbered[places] - 1).long()
        gathered = gradient.new_zeros(count)
        gathered[order] = gradient.detach()[places]
        gradient = gathered
    return flat(gradient)


def moved_to(base: torch.Tensor, entries: Array, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor like the base, of the same strides, with these entries."""
    dtype = dtype or base.dtype
    values = torch.from_numpy(entries)
    if base.is_complex():
        values = torch.view_as_complex(values.reshape(-1, 2).clone())
    if base.layout != torch.strided:
        return filled(base, values, dtype)
    if dtype == torch.float64 and base.is_cpu and base.is_contiguous() and type(base) is torch.Tensor:
        return values.reshape(base.shape).clone()  # the same in fewer calls
    return torch.empty_like(base, dtype=dtype).copy_(values.reshape(base.shape))


def write(tensor: torch.Tensor, entries: Array) -> None:
    """Change a dense tensor's entries in place, behind the version counter: a graph that the user holds stays
    usable.
    """
    values = torch.from_numpy(entries)
    if tensor.is_complex():
        values = torch.view_as_complex(values.reshape(-1, 2).clone())
    tensor.data.copy_(values.reshape(tensor.shape))


def filled(base: torch.Tensor, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A sparse tensor of the base's pattern with other values, in their order."""
    values = values.to(base.device, dtype).reshape(_values(base).shape)
    if base.layout == torch.sparse_coo:
        return torch.sparse_coo_tensor(base.indices(), values, base.shape, is_coalesced=True, check_invariants=False)
    by_row = base.layout in {torch.sparse_csr, torch.sparse_bsr}
    compressed = base.crow_indices() if by_row else base.ccol_indices()
    plain = base.col_indices() if by_row else base.row_indices()
    return torch.sparse_compressed_tensor(
        compressed, plain, values, base.shape, layout=base.layout, check_invariants=False
    )


def _values(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.layout == torch.strided:
        return tensor
    return (tensor.coalesce() if tensor.layout == torch.sparse_coo else tensor).detach().values()
