"""Does the signal survive the depth, forwards and backwards?"""
