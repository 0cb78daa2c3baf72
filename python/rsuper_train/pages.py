# SPDX-License-Identifier: Apache-2.0
"""Pages for a browser or a printer, each in one file that needs nothing but itself."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from rsuper_train.files import write_text


def write(path: Path, template: str, **values: Any) -> None:
    """Fill a template of this package, which extends `page.html.j2`; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rsuper_train", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    write_text(path, environment.get_template(template).render(values))


def image(figure: Figure) -> str:
    """A figure as PNG in a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
