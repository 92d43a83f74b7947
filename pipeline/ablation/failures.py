"""Why replicates of an ablation failed when they last ran: in the store, for a report that is written later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.storage import Storage


@dataclass(frozen=True)
class Failures:
    """Those of the ablations called ``name`` in a store, by whatever tells one replicate from another."""

    storage: Storage
    name: str

    @property
    def traces(self) -> str:
        """The folder of the store where tracebacks lie."""
        return f"ablations/{self.name}/failures"

    @property
    def _key(self) -> str:
        return f"{self.traces}.json"

    def known(self) -> dict[str, str]:
        """The sentence of every failed replicate."""
        if not self.storage.exists(self._key):
            return {}
        found: dict[str, str] = json.loads(self.storage.read(self._key))
        return found

    def remember(self, latest: Mapping[str, str | None]) -> None:
        """Of the replicates in ``latest`` the sentence, or None for one that did not fail; all others stay as known."""
        known = {key: why for key, why in self.known().items() if key not in latest}
        known |= {key: why for key, why in latest.items() if why is not None}
        self.storage.put(self._key, json.dumps(known, indent=1).encode())
