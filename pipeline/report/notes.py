"""Sentences below a table, and the numbers by which it refers to them."""

from __future__ import annotations


class Notes:
    """Sentences, numbered from 1 as they are first asked for; the same one keeps its number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, sentence: str) -> int:
        """The number of ``sentence``."""
        return self.numbers.setdefault(sentence, len(self.numbers) + 1)
