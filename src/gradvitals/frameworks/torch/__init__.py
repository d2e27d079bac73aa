"""PyTorch: the only package, with the faces, that imports torch."""
