"""How the papers' claims and their verdicts are printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from tda_backend.interfaces.cli.printing import print_line
from tda_backend.interfaces.papers.verdicts import PaperClaim
from tda_backend.interfaces.reading.records.base import is_missing
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.verdicts import Verdict
from tda_backend.studies.contract.claim import NOT_RUN, NOT_TESTED, SHORT_NAMES


def figure(claim: PaperClaim) -> str:
    """Return our figure with its interval and the bound that it must pass.

    A dash where there is none, or where it is no figure about the paper's statement.
    """
    if claim.verdict in (NOT_RUN, NOT_TESTED) or is_missing(claim.value):
        return "–"
    interval = "(no interval)" if is_missing(claim.low) else f"[{claim.low:.3f}, {claim.high:.3f}]"
    return f"{claim.value:.3f} {interval}, bound {claim.bound:g}"


def print_verdicts(console: Console, verdicts: Sequence[Verdict], quick: bool = False) -> None:
    """Print each claim with its verdict and every number behind it."""
    if quick and verdicts:
        console.print(
            "A quick study has few examples and subsets: its verdicts show that the machinery works, and say nothing "
            "about the paper.",
            highlight=False,
            soft_wrap=True,
        )
    for row in verdicts:
        print_line(console, f"{row.verdict.upper()}: {row.statement} ({row.paper}, {row.place})")
        if row.verdict in (NOT_RUN, NOT_TESTED):
            print_line(console, f"    {row.note}")
        for sentence in row.numbers:
            print_line(console, f"    {sentence}")


def reasons(claims: Sequence[PaperClaim]) -> list[str]:
    """Return why claims are not tested as stated, a sentence a reason, with the number of claims and their studies."""
    withdrawn = [claim for claim in claims if claim.verdict == NOT_TESTED]
    found = []
    for reason, mine in grouped(withdrawn, lambda claim: claim.note or "").items():
        studies = ", ".join(f"`{name}`" for name in dict.fromkeys(claim.study for claim in mine))
        found.append(f"{len(mine)} {'claim' if len(mine) == 1 else 'claims'} of {studies}: {reason}")
    return found


def papers_markdown(claims: Sequence[PaperClaim]) -> str:
    """Return the claims that were run as a Markdown table, and a sentence on those that were not."""
    run = [claim for claim in claims if claim.verdict != NOT_RUN]
    lines = ["| place | statement | our figure [95 %] | verdict | study |", "|---|---|---|---|---|"]
    for claim in run:
        cells = [
            f"{SHORT_NAMES[claim.paper]}, {claim.place}",
            claim.statement,
            figure(claim),
            f"**{claim.verdict}**",
            f"`{claim.study}`",
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    counted = Counter(claim.verdict for claim in run).most_common()
    counts = "; ".join(f"{count} {verdict}" for verdict, count in counted)
    lines += ["", f"{counts or 'Nothing was run'}."]
    rest = [claim.study for claim in claims if claim.verdict == NOT_RUN]
    why = reasons(claims)
    if why:
        lines += ["", f"*{NOT_TESTED.capitalize()}*, until these studies are run as the paper states them:", ""]
        lines += [f"- {sentence}" for sentence in why]
    if rest:
        studies = ", ".join(f"`{name}`" for name in dict.fromkeys(rest))
        lines += ["", f"Not run at full size: {len(rest)} claims of {studies}."]
    return "\n".join(lines) + "\n"
