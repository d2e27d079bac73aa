"""Second moments of a model's signal and gradient, from its operations and the size of its weights."""
