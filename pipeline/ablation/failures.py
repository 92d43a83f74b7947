"""Why replicates of an ablation failed when they last ran: in the store, for a report that is written later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.storage import LocalStorage


@dataclass(frozen=True)
class Failures:
    """Those of the ablations called ``name`` in a store, by whatever tells one replicate from another."""

    storage: LocalStorage
    name: str

    @property
    def traces(self) -> str:
        """The folder of the store where tracebacks lie."""
        return f"ablations/{self.name}/failures"

    def known(self) -> dict[str, str]:
        """The sentence of every failed replicate."""
        path = self.storage.path(f"{self.traces}.json")
        found: dict[str, str] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    def remember(self, latest: Mapping[str, str | None]) -> None:
        """Of the replicates in ``latest`` the sentence, or None for one that did not fail; all others stay as known."""
        known = {key: why for key, why in self.known().items() if key not in latest}
        known |= {key: why for key, why in latest.items() if why is not None}
        path = self.storage.path(f"{self.traces}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(json.dumps(known, indent=1))
        temporary.replace(path)
