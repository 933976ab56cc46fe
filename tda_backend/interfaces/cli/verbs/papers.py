"""``tda papers``: what the papers claim, and whether our figures show it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Run the command and return its exit code."""
    import sys
    from collections import Counter

    from tda_backend.interfaces.cli.printing import print_json, print_line, print_table
    from tda_backend.interfaces.cli.verdicts import figure, papers_markdown, reasons
    from tda_backend.interfaces.papers.verdicts import claims_of_papers, paper_claims

    if arguments.json:
        print_json(paper_claims(arguments.db).to_dict("records"))
        return 0
    claims = claims_of_papers(arguments.db)
    if arguments.markdown:
        sys.stdout.write(papers_markdown(claims))
        return 0
    cells = [
        [claim.paper, claim.place, claim.statement, figure(claim), claim.verdict, claim.origin, claim.study]
        for claim in claims
    ]
    print_table(console, ["paper", "place", "statement", "our figure [95 %]", "verdict", "origin", "study"], cells)
    count = Counter(claim.verdict for claim in claims).most_common()
    console.print("; ".join(f"{number} {name}" for name, number in count) + ".", highlight=False)
    for sentence in reasons(claims):
        print_line(console, f"Not tested as stated: {sentence.replace('`', '')}")
    return 0
