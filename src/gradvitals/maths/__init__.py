"""Pure functions on NumPy arrays: no framework, no opinion."""
