"""What pydantic found, as one sentence: what is wrong with a setting and what would be right.

Our own validators raise such sentences already; this is the table for the checks that pydantic makes by itself, and
the place in the file that a sentence is about. Nothing is imported but pydantic.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

# By pydantic's type of error; single braces are filled from its context.
SENTENCES: Mapping[str, str] = {
    "missing": "this setting is missing",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "finite_number": "must be a finite number",
    "too_long": "has {actual_length} values, of which there may be at most {max_length}",
    "union_tag_not_found": "there are several kinds of this; say which, as in `kind: ...`",
    "path_type": "must be a path, such as data/photos",
    "string_type": "must be text; put a number in quotes",
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("tuple_type", "list_type"), "must be a list, such as [1, 2]"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "must be a mapping, such as {{kind: ...}}"),
    **dict.fromkeys(("dict_type", "mapping_type"), "must be a mapping, such as {{name: ...}}"),
}
PATTERNS: Mapping[str, str] = {
    r"^[a-z][a-z0-9_]*$": "must be a name of lower-case letters, digits and _ that begins with a letter",
    r"^[A-Za-z0-9][A-Za-z0-9_.-]*$": "must be a name of letters, digits, _, . and - that begins with a letter or digit",
    r"^[A-Za-z0-9][A-Za-z0-9_-]*$": "must be a name of letters, digits, _ and - that begins with a letter or digit",
}


def first_message(error: ValidationError) -> str:
    """What is wrong first, without pydantic's frame."""
    errors = error.errors()
    first = errors[0]
    kind, context = first["type"], first.get("ctx", {})
    if kind == "missing" and isinstance(first["loc"][-1], int):  # the end of a list that is too short
        absent = [other for other in errors if other["type"] == kind and other["loc"][:-1] == first["loc"][:-1]]
        given = first["loc"][-1]
        return f"has {_values(given)} and needs {given + len(absent)}"
    if kind == "too_short":
        return f"has {_values(context['actual_length'])} and needs {context['min_length']} or more"
    if kind == "union_tag_invalid":
        return _unknown_kind(context["tag"], context["expected_tags"].replace("'", "").split(", "))
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"must match the pattern {context['pattern']}")
    if kind in SENTENCES:
        return SENTENCES[kind].format_map(context)
    return first["msg"].removeprefix("Value error, ")


def _values(count: int) -> str:
    return f"{count or 'no'} value{'' if count == 1 else 's'}"


def _unknown_kind(kind: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
    return f"there is no kind {kind!r}; " + (
        f"did you mean {nearest[0]!r}?" if nearest else f"kinds are {', '.join(known)}"
    )


def placed_message(data: Any, error: ValidationError) -> str:
    """The first mistake in ``data`` with its dotted path, where that is known."""
    place = _place(data, error.errors()[0])
    return f"{'.'.join(map(str, place)) + ': ' if place else ''}{first_message(error)}"


def located(path: Path, document: Any, data: Any, error: ValidationError) -> str:
    """One sentence for the first mistake: file, line, dotted path, what is wrong, how many others there are.

    ``data`` is the ``document`` of ruamel with the overrides applied; a setting that only an override gave has no line.
    """
    first = error.errors()[0]
    place = _place(data, first)
    line = None
    for key in place:
        if not (isinstance(document, dict) and key in document):
            break
        line = document.lc.key(key)[0] + 1  # type: ignore[attr-defined]
        document = document[key]
    where = f"{path}:{line}" if line else str(path)
    given = f" (given: {first['input']!r})" if isinstance(first["input"], str | int | float | bool) else ""
    places = {_place(data, other) for other in error.errors()}
    # A list with a bad value is also told to be too short, and a setting of several types fails once for each.
    apart = [one for one in places if not any(one != other and one == other[: len(one)] for other in places)]
    others = f" (and {len(apart) - 1} more)" if len(apart) > 1 else ""
    return f"{where}: {'.'.join(map(str, place)) + ': ' if place else ''}{first_message(error)}{given}{others}"


def _place(data: Any, error: ErrorDetails) -> tuple[int | str, ...]:
    """Where in ``data`` an error is: pydantic's own path holds names of types too, and keys that are not there."""
    place: list[int | str] = []
    for key in error["loc"]:
        if key in (data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()):
            data = data[key]
            place.append(key)
    if error["type"] == "missing" and isinstance(error["loc"][-1], str):
        place.append(error["loc"][-1])
    return tuple(place)
