"""Grids for real weights: samples, learning, the search for pairs, and metrics."""
