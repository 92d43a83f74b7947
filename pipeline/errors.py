"""The one exception that means "the person must change something", as opposed to a fault of ours; and what is not
tried again."""

from __future__ import annotations


class UserError(ValueError):
    """Input that cannot be used. The message is one sentence: what is wrong, where, what would be right.

    The command line prints it without a traceback and leaves with exit code 2.
    """


def first_line(error: BaseException) -> str:
    """What an error says, as far as one line goes; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


Refusal = UserError | FloatingPointError
REFUSALS = (UserError, FloatingPointError)  # the same on every try: no worker is started anew for them
