"""Bounds of a block that takes the best of several ways to encode it."""
