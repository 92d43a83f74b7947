"""The one exception that means "the person must change something", as opposed to a fault of ours."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used. The message is one sentence: what is wrong, where, what would be right.

    The command line prints it without a traceback and leaves with exit code 2.
    """
