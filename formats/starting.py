"""The text of a new format, made from a template."""

from __future__ import annotations

import re
from dataclasses import replace

from ..dsl.ast import File, Word
from ..dsl.diagnostics import FormatError, nearest
from ..dsl.parser import parse
from ..dsl.printer import print_file
from .files import UnknownFormat, read_text, template_files

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def template_titles() -> dict[str, str]:
    """Name -> title of every template, in alphabetical order."""
    titles = {name: _template(name).formats[0].title for name in sorted(template_files())}
    return {name: title.text if title else "" for name, title in titles.items()}


def started(name: str, template: str) -> str:
    """The text of a template with its format called ``name``.

    Raises:
        UnknownFormat: there is no such template, or a format cannot have this name.
    """
    tree = _template(template)
    named = replace(tree.formats[0], name=Word(name))
    text = print_file(replace(tree, formats=(named,)))
    try:
        if not _NAME.fullmatch(name):
            raise UnknownFormat(
                f"a format cannot be called '{name}': a name is letters, digits and _, "
                "and does not begin with a digit"
            )
        parse(text)
    except FormatError as error:
        raise UnknownFormat(
            f"a format cannot be called '{name}': the language has that word itself"
        ) from error
    return text


def _template(name: str) -> File:
    known = template_files()
    if name not in known:
        close = nearest(name, known)
        hint = f"; did you mean '{close}'?" if close else ""
        raise UnknownFormat(f"no template is called '{name}'{hint} (there are {', '.join(known)})")
    return parse(read_text(known[name]), str(known[name]))
