"""Worst-case error bounds of a format, their proofs, and the checker of the proofs."""
