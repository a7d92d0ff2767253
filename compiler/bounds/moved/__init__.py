"""Bounds of formats with a zero clause, or with scales stored in a format of their own."""
