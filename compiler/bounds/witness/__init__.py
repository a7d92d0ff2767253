"""Inputs that come near the bounds, and what share of a bound an input reaches."""
