"""JAX's arrays as real numbers: which leaves can be moved, and how a complex one becomes a real one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_array(value: Any) -> bool:
    """Whether a value is an array, or a scalar with a dtype; Python's numbers have none."""
    return isinstance(value, (jax.Array, np.ndarray, np.generic))


def is_inexact(value: Any) -> bool:
    """Whether a value is an array of floating-point or complex numbers; random keys and integers are not."""
    return is_array(value) and bool(jnp.issubdtype(value.dtype, jnp.inexact))


def is_key(value: Any) -> bool:
    """Whether a value is a random key, of the new style or most likely of the old one (unsigned integers)."""
    return isinstance(value, jax.Array) and bool(
        jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or value.dtype == np.uint32
    )


def is_complex(dtype: Any) -> bool:
    """Whether numbers of this dtype have an imaginary part."""
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def held_in(value: Any) -> np.dtype[Any]:
    """The dtype in which JAX holds a value: without x64, a float64 array of NumPy's is a float32 one.

    >>> held_in(1.0).name
    'float32'
    """
    return np.dtype(jax.dtypes.canonicalize_dtype(jnp.result_type(value)))


def component(dtype: Any) -> np.dtype[Any]:
    """The dtype of the real and imaginary parts; of a real dtype itself."""
    return np.empty(0, dtype).real.dtype if is_complex(dtype) else np.dtype(dtype)


def roundoff(dtype: Any) -> float:
    """Unit roundoff of a floating-point or complex dtype.

    >>> roundoff(jnp.bfloat16), roundoff(jnp.complex64) == 2**-24
    (0.00390625, True)
    """
    return float(jnp.finfo(dtype).eps) / 2  # type: ignore[no-untyped-call]


def as_real(value: jax.Array) -> jax.Array:
    """The real view of an array: a complex one gets a last axis of real and imaginary part."""
    return jnp.stack([value.real, value.imag], axis=-1) if is_complex(value.dtype) else value


def real_view(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    """The same for concrete values, as an array of NumPy's, rounded to a dtype."""
    array = np.asarray(value).astype(dtype)
    if not is_complex(dtype):
        return array
    return np.stack([array.real, array.imag], axis=-1)


def from_real(view: jax.Array, like: Any) -> jax.Array:
    """The array that a real view is of; weakly typed where ``like`` is, for that decides the dtype of what it meets."""
    value = jax.lax.complex(view[..., 0], view[..., 1]) if is_complex(held_in(like)) else view
    if getattr(like, "weak_type", False) and value.ndim == np.ndim(like):
        return jnp.full(value.shape, 0j if is_complex(value.dtype) else 0.0).at[...].set(value)
    return value


def widened(value: Any) -> Any:
    """A floating-point or complex array in twice its precision; whatever else as it is. Needs x64."""
    if not is_inexact(value):
        return value
    return jnp.asarray(np.asarray(value).astype(np.complex128 if is_complex(value.dtype) else np.float64))
