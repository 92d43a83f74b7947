"""Addresses as they may be told: without what lets somebody in. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_WEB = r"((?i:https?)://)(?:[^/?#\s]*@)?"
# Clients of databases take passwords as they are, with all that means something in an address: up to the last @.
_OTHER = r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#@:\s]*:\S*@|[^/?#\s]*@)?"
# Place; query and fragment, where signatures and tokens stand. Brackets at the end close what the address stands in.
_REST = r"([^?#\s'\"]*)(?:[?#][^\s'\"]*?(?=[)}\],]*(?:[\s'\"]|$)))?"
_ADDRESS = re.compile(f"(?:{_WEB}|{_OTHER}){_REST}")
# As clients of HTTP name what they asked a server for: a path, and a query of keys with values.
_REQUEST = re.compile(r"(/[^?#\s'\"]*)\?[^\s'\"?=]+=[^\s'\"]*")


def without_secret(text: str) -> str:
    """``text`` with every address in it as scheme, host and path alone: no user, no password, no query.

    So is the path of one, where a query follows upon it.
    """
    return _REQUEST.sub(r"\1", _ADDRESS.sub(r"\1\2\3", text))


def without_secrets(settings: Any) -> Any:
    """Nested ``settings`` with their addresses as ``without_secret`` has them; what has spaces is prose, and stays."""
    if isinstance(settings, Mapping):
        return {key: without_secrets(value) for key, value in settings.items()}
    if isinstance(settings, list | tuple):
        return [without_secrets(value) for value in settings]
    return without_secret(settings) if isinstance(settings, str) and not re.search(r"\s", settings) else settings
