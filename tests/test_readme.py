"""What the README says can be typed: its commands parse, its task file passes the checks, its pictures exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tda_backend.runs.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PROSE = re.sub(r"<!-- tda papers --markdown -->.*?<!-- end -->", "", README, flags=re.DOTALL)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(
    {match.strip() for match in re.findall(r"`tda ([^`]+)`", README)}
    | {line.split("#")[0].split("tda ", 1)[1].strip() for kind, text in BLOCKS if kind == "bash"
       for line in text.splitlines() if "bin/tda " in line}
)  # fmt: skip


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("--")])
def test_command_parses(command: str):
    build_parser().parse_args(shlex.split(command.replace("\\*", "*")))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make (\w+)", PROSE))))
def test_make_target_exists(target: str):
    if target in ("are",):
        pytest.skip("prose")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), target


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_link_leads_somewhere(path: str):
    assert (ROOT / path).exists(), path


def test_task_file_of_the_readme_passes_the_checks(tmp_path: Path):
    (code,) = [text for kind, text in BLOCKS if kind == "python" and "my_task.py" in text]
    (tmp_path / "my_task.py").write_text(code)
    command = [sys.executable, "-m", "tda_backend", "check", f"{tmp_path / 'my_task.py'}:factory"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_table_of_claims_is_that_of_the_shipped_results(tmp_path: Path):
    from tda_backend.runs.paper_commands import papers_markdown
    from tda_backend.runs.papers import paper_claims

    shown = README.split("<!-- tda papers --markdown -->\n")[1].split("<!-- end -->")[0]
    assert shown.strip() == papers_markdown(paper_claims(tmp_path / "empty.duckdb")).strip()
