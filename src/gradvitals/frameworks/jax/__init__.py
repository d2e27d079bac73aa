"""JAX functions, modules that are pytrees, and hand-written gradients of either."""
