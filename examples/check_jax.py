"""Is a custom_vjp right? In float32, as JAX computes, with parameters in a pytree.

python examples/check_jax.py
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import gradvitals as gv

rng = np.random.default_rng(0)


@jax.custom_vjp
def layer_norm(x, gain):
    centred = x - x.mean(-1, keepdims=True)
    return gain * centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)


def forward(x, gain):
    centred = x - x.mean(-1, keepdims=True)
    rms = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return gain * centred / rms, (centred / rms, rms, gain)


def backward(kept, dout):
    normed, rms, gain = kept
    inner = dout * gain
    # The mean of the incoming gradient should be taken away as well: x is centred.
    dx = (inner - normed * (inner * normed).mean(-1, keepdims=True)) / rms
    return dx, (dout * normed).sum(0)


layer_norm.defvjp(forward, backward)


def model(params, x):
    hidden = jnp.tanh(x @ params["dense"]["W"] + params["dense"]["b"])
    return layer_norm(hidden, params["norm"]["gain"])


def main():
    x = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
    params = {
        "dense": {"W": jnp.asarray(rng.standard_normal((4, 6)) / 2, jnp.float32), "b": jnp.zeros(6)},
        "norm": {"gain": jnp.ones(6)},
    }
    print(gv.check(layer_norm, x, jnp.ones(4)))

    # The gain's own gradient is right; whatever lies before the layer inherits its mistake.
    print(gv.check(model, params, x, loss=lambda y: (y**3).mean()))


if __name__ == "__main__":
    main()
