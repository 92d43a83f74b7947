"""What the pages of all reports share: how templates are read, filters, figures on a page, scripts that may run.

What a page holds is for ``writing`` and ``ablation.report`` to say.
"""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from pipeline.report.setting_names import told_value
from pipeline.report.wording import clock, estimate, number, share

if TYPE_CHECKING:
    from jinja2 import Environment


class Figure(NamedTuple):
    """A stand-alone SVG and what it says, for those who do not see it."""

    svg: str
    description: str


def page_environment() -> Environment:
    """The templates beside this package, where a name that is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "share": share, "clock": clock, "setting": told_value}
    environment.filters |= {"data_uri": data_uri, "sha256": sha256}
    environment.globals["estimate"] = estimate
    return environment


def source(environment: Environment, name: str) -> str:
    """A template as it stands, such as a script."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def sha256(text: str) -> str:
    """As a content security policy names a script that it lets run."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def data_uri(png: bytes) -> str:
    """A PNG as an address that needs nothing from outside."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
