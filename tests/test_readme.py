"""The README and the pages in docs can be typed: commands parse, the task file passes, links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tda_backend.interfaces.cli.main import build_parser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text() for path in PAGES}
README = TEXTS["README.md"]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)


def _without_generated(text: str) -> str:
    return re.sub(r"<!-- tda \w+ --markdown -->.*?<!-- end -->", "", text, flags=re.DOTALL)


def _commands(text: str) -> set[str]:
    """Return what follows `tda` in inline code and in bash blocks."""
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    typed = {line.split("#")[0].split("tda ", 1)[1].strip() for line in lines if "bin/tda " in line}
    return typed | {match.strip() for match in re.findall(r"`tda ([^`]+)`", text)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


COMMANDS = sorted(set().union(*(_commands(text) for text in TEXTS.values())))
TARGETS = sorted(set().union(*(re.findall(r"`make (\w+)|^make (\w+)", text, re.MULTILINE) for text in TEXTS.values())))
LINKS = [
    (page, link)
    for page, text in TEXTS.items()
    for link in sorted(set(re.findall(r"\]\((?!http)([^)]+)\)", _without_generated(text))))
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command_parses(command: str):
    build_parser().parse_args(shlex.split(command.replace("\\*", "*")))


@pytest.mark.parametrize("target", sorted({inline or typed for inline, typed in TARGETS}))
def test_make_target_exists(target: str):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_link_leads_somewhere(page: str, link: str):
    path, _, anchor = link.partition("#")
    target = (ROOT / page).parent / path if path else ROOT / page
    assert target.exists(), f"{page} links to {link}"
    headings = {_anchor(heading) for heading in re.findall(r"^#+ (.+)$", target.read_text(), re.M)} if anchor else set()
    assert not anchor or anchor in headings, f"{page} links to {link}; headings: {sorted(headings)}"


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= 250


def test_task_file_of_the_readme_passes_the_checks(tmp_path: Path):
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "my_task.py" in text]
    (tmp_path / "my_task.py").write_text(code)
    command = [sys.executable, "-m", "tda_backend", "check", f"{tmp_path / 'my_task.py'}:factory"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def _generated(page: str, command: str) -> str:
    return TEXTS[page].split(f"<!-- {command} -->\n")[1].split("<!-- end -->")[0].strip()


def test_the_table_of_claims_is_that_of_the_shipped_results(tmp_path: Path):
    from tda_backend.interfaces.cli.verdicts import papers_markdown
    from tda_backend.interfaces.papers.verdicts import claims_of_papers

    made = papers_markdown(claims_of_papers(tmp_path / "empty.duckdb")).strip()
    assert _generated("docs/claims.md", "tda papers --markdown") == made


def test_the_tables_of_methods_are_those_of_the_method_table():
    from tda_backend.interfaces.cli.method_tables import methods_markdown

    assert _generated("docs/methods.md", "tda methods --markdown") == methods_markdown().strip()


def test_every_method_belongs_to_a_family():
    from tda_backend.studies.methods import METHODS

    families = TEXTS["docs/methods.md"].split("| family | methods |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([\w-]+)`", families)) == set(METHODS)


@pytest.mark.parametrize("page", sorted(set(TEXTS) - {"docs/tables.md"}))  # which has words alone, no numbers
def test_tables_show_no_nan(page: str):
    rows = [line for line in TEXTS[page].splitlines() if line.startswith("|") and re.search(r"\bnan\b", line, re.I)]
    assert not rows


def test_every_row_of_speed_names_a_benchmark():
    from tests.benchmarks.__main__ import NAMES

    table = TEXTS["docs/figures.md"].split("## Speed and memory")[1].split("\n\n")[1]
    named = [re.fullmatch(r"\| .* \| `(\w+)` \|", row) for row in table.splitlines()[2:]]
    assert all(named)
    assert {match[1] for match in named if match} <= set(NAMES)
