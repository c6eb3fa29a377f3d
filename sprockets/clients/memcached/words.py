"""How what a caller gave is shown in an error: in one line, and cut."""

from __future__ import annotations

import difflib
import typing
from collections import abc

LONGEST = 100
"""Characters that are shown of a value."""


def shown(value: typing.Any) -> str:
    """Return a value in writing, whatever it is."""
    if isinstance(value, str | bytes) and len(value) > LONGEST:
        # Its end is not written either, however long it is.
        return f'{value[:LONGEST]!r}...'
    try:
        text = repr(value)
    # It is the value's own code.
    except Exception:  # noqa: BLE001
        return f'a {type(value).__qualname__}'
    text = ' '.join(text.split())
    return text if len(text) <= LONGEST else f'{text[:LONGEST]}...'


def meant(name: str, names: abc.Iterable[str]) -> str | None:
    """Return the name that a misspelt one stands for, None if it is none."""
    close = difflib.get_close_matches(name, list(names), 1, 0.8)
    return close[0] if close else None
