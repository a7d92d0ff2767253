"""Loops that numba compiles once for all formats: what a format means comes to them as tables.

A loop runs over a *chunk*: whole blocks of a row, about a thousand elements, whose scratch stays
in the first cache. What is done with a chunk is done in steps over all of it, each a plain loop
that the compiler can vectorise. Indices are unsigned there: for signed ones numba also compiles
what a negative index would mean. Nothing is ever contracted or reordered.
"""
