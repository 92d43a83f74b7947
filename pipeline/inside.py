"""Names of files that were read from somewhere: they stay below the folder that they are going to be joined to."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator


def leads_elsewhere(name: str) -> bool:
    """Whether ``name``, joined to a folder or a prefix by a slash, is that itself or may lead out of it."""
    return "\0" in name or any(part in ("", ".", "..") for part in name.split("/"))


def stays_inside(name: str) -> str:
    """``name``, a relative path with slashes. Raises ValueError for one that could lead anywhere else."""
    if leads_elsewhere(name) or "\\" in name:
        raise ValueError(f"{name!r} is no name of a file below a folder")
    return name


InsideName = Annotated[str, AfterValidator(stays_inside)]
