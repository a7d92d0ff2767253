"""Errors that a user of the runtime may want to catch by name."""

from __future__ import annotations


class CorruptFile(ValueError):
    """A file is truncated, altered or not of fmtc; the message says which and how it shows."""


class RefusedInput(ValueError):
    """A tensor that the format's policies refuse; the message says where and the way out."""


class UnusableModel(ValueError):
    """The path is no model that can be read; the message says what is expected."""


class MissingPackage(ImportError):
    """An optional package is needed; the message is the line that installs it."""


def missing(package: str, extra: str) -> MissingPackage:
    """The error for an absent optional package."""
    return MissingPackage(f"this needs the package '{package}': pip install 'fmtc[{extra}]'")
