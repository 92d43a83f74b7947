"""A finding, and how a check becomes one: it returns what it saw, or raises what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.addresses import without_secret
from pipeline.errors import UserError


@dataclass(frozen=True)
class Finding:
    """One line: ``told`` is what was seen, or the sentence that says what is wrong and what to do."""

    name: str
    ok: bool
    told: str


class Trouble(UserError):  # noqa: N818 - it states what happened
    """A check failed; the message is one sentence: what is wrong and what to do."""


@dataclass
class Findings:
    """Collects findings; ``tell`` hears of each at once."""

    tell: Callable[[Finding], None] = lambda finding: None
    all: list[Finding] = field(default_factory=list)

    def check(self, name: str, act: Callable[[], str]) -> bool:
        """Run a check; whether it went well."""
        try:
            return self.add(name, True, act())
        except UserError as error:
            return self.add(name, False, str(error))
        except Exception as error:  # whatever a library raises is a finding here
            first = (str(error).strip().splitlines() or [""])[0]
            return self.add(name, False, f"{type(error).__name__}: {first}")

    def add(self, name: str, ok: bool, told: str) -> bool:
        finding = Finding(name, ok, without_secret(told))
        self.all.append(finding)
        self.tell(finding)
        return ok
