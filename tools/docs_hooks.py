"""What mkdocs does to a page before it reads it (`hooks` in mkdocs.yml)."""

from __future__ import annotations

import re
from typing import Any

MARKED = re.compile(r"^(?P<start> *```)(?:python (?P<not_run>no-run)|json lines)$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Rewrite the markers behind fences, which GitHub ignores and superfences refuses.

    `python no-run`, which the tests compile and do not run, gets a title that says so; `json lines` becomes JSON.
    """

    def rewrite(match: re.Match[str]) -> str:
        if match["not_run"]:
            return f'{match["start"]}python title="Needs a model, data or a server of your own"'
        return f"{match['start']}json"

    return MARKED.sub(rewrite, markdown)
