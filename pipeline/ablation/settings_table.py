"""The table of the settings in which the cells of an ablation differ. Reads and checks no settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.ablation.parts import AblationReport
from pipeline.report.setting_names import short_names, told_value

UNKNOWN = "as declared"  # where the declared experiment is not at hand, or has no such path


class SettingsColumn(NamedTuple):
    """A dotted path, a short name that no other column has, and the value that was declared."""

    path: str
    name: str
    declared: str


class SettingsTable(NamedTuple):
    """A line per cell, the baseline first: its name and, for each column, the value and whether the cell set it."""

    columns: list[SettingsColumn]
    rows: list[tuple[str, list[tuple[str, bool]]]]


def settings_table(report: AblationReport) -> SettingsTable:
    """The columns are the paths that any cell sets, in the order in which they first appear."""
    paths = list(dict.fromkeys(path for cell in report.cells for path in cell.settings))
    names = short_names(paths)
    declared = {path: _declared(report.settings, path) for path in paths}
    rows = []
    for cell in report.in_order:
        told = {path: told_value(value) for path, value in cell.settings.items()}
        rows.append((cell.name, [(told.get(path, declared[path]), path in told) for path in paths]))
    return SettingsTable([SettingsColumn(path, names[path], declared[path]) for path in paths], rows)


def _declared(settings: Mapping[str, Any], path: str) -> str:
    found: Any = settings
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return UNKNOWN
        found = found[part]
    return told_value(found)
