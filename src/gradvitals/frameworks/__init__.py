"""NumPy and PyTorch behind one small protocol; JAX will stand beside them."""
