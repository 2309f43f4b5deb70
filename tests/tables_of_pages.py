"""The tables of a report's page."""

from __future__ import annotations

import re
from html import unescape


def rows_of(html: str, caption: str) -> list[list[str]]:
    """The cells of the table with a caption."""
    (table,) = [one for one in re.findall(r"<table.*?</table>", html, re.DOTALL) if caption in unescape(one)]
    body = table[table.index("<tbody") :]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    return [
        [unescape(re.sub(r"<.*?>", "", cell)).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)]
        for row in rows
    ]
