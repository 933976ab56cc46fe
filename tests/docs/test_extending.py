"""Each worked example of docs/extending.md runs on a copy of the code, and costs what the page's table says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs import worked_examples as worked

PAGE = worked.PAGE.read_text()
EXAMPLES = worked.examples(PAGE)
ALLOWANCES = {allowance.anchor: allowance for allowance in worked.allowances(PAGE)}
PROMISED = {
    "a-filter-method",
    "another-method",
    "a-task",
    "a-page",
    "a-hyper-parameter",
    "a-kind-of-claim",
    "a-kind-of-step",
}


def test_the_table_and_the_sections_are_those_promised():
    assert set(ALLOWANCES) == set(EXAMPLES) == PROMISED


@pytest.mark.parametrize("anchor", sorted(PROMISED))
def test_the_example_costs_what_the_table_says(anchor: str):
    example = EXAMPLES[anchor]
    assert not example.is_pending, f"{example.heading}: the example is not written yet"
    assert example.changes
    assert not ALLOWANCES[anchor].excess(example)


@pytest.mark.slow
@pytest.mark.parametrize("anchor", sorted(PROMISED))
def test_the_example_runs_and_prints_what_the_page_says(anchor: str, tmp_path: Path):
    example = EXAMPLES[anchor]
    assert not example.is_pending, f"{example.heading}: the example is not written yet"
    assert example.commands
    folder = worked.copy_of_the_code(tmp_path / "copy")
    worked.apply(example, folder)
    for command, printed in zip(example.commands, worked.run(example.commands, folder), strict=True):
        missing = worked.missing_line(command.expected, printed)
        assert missing is None, f"{command.line} does not print {missing!r}:\n{printed}"


def _page(text: str) -> worked.Example:
    return next(iter(worked.examples(text).values()))


def test_the_copy_is_what_runs(tmp_path: Path):
    folder = worked.copy_of_the_code(tmp_path / "copy")
    example = _page(
        "## X\n```python\n# add to: tda_backend/seeds.py after: from __future__\n\nMARK = 7\n```\n"
        "```console\n$ python -c 'from tda_backend import seeds; print(seeds.__file__, seeds.MARK)'\n"
        f"{folder}/tda_backend/seeds.py 7\n```\n"
    )
    worked.apply(example, folder)
    (command,), (printed,) = example.commands, worked.run(example.commands, folder)
    assert worked.missing_line(command.expected, printed) is None
    assert "MARK" not in (worked.ROOT / "tda_backend" / "seeds.py").read_text()


def test_files_and_folders_are_counted():
    example = _page(
        "## X\n```python\n# file: app/views/new/page.py\n```\n```css\n/* file: app/views/new/page.css */\n```\n"
        "```js\n// add to: app/a.js before: }\nrow\n```\n```python\n# file: try/it.py\n```\n"
    )
    assert example.new_files() == {"app/views/new/page.py", "app/views/new/page.css"}
    assert example.changed_files() == {"app/a.js"}
    assert not worked.Allowance("", "", 1, True, 1).excess(example)
    assert worked.Allowance("", "", 1, False, 0).excess(example) == (
        "new: app/views/new/page.css, app/views/new/page.py; changed: app/a.js"
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("print(1)", "says where it goes"),
        ("# file: ../out.py", "starts at the root"),
        ("# add to: app/main.py", "needs one"),
    ],
)
def test_a_block_without_a_place_is_refused(code: str, message: str):
    with pytest.raises(ValueError, match=message):
        worked.examples(f"## X\n```python\n{code}\n```\n")


def test_a_row_needs_exactly_one_line_to_stand_at(tmp_path: Path):
    (tmp_path / "a.py").write_text("x\nx\n")
    with pytest.raises(ValueError, match="2 lines"):
        worked.apply(_page("## X\n```python\n# add to: a.py after: x\ny\n```\n"), tmp_path)


def test_an_example_overwrites_no_file(tmp_path: Path):
    (tmp_path / "a.py").write_text("x\n")
    with pytest.raises(ValueError, match="exists already"):
        worked.apply(_page("## X\n```python\n# file: a.py\ny\n```\n"), tmp_path)


def test_a_failing_command_fails_the_example(tmp_path: Path):
    with pytest.raises(AssertionError, match="returned 3"):
        worked.run([worked.Command("python -c 'import sys; sys.exit(3)'", ())], tmp_path)
    with pytest.raises(ValueError, match="tda and python"):
        worked.run([worked.Command("rm -r x", ())], tmp_path)


def test_expected_lines_come_in_order():
    assert worked.missing_line(("a … c", "d"), "x\na  b c\nd\n") is None
    assert worked.missing_line(("d", "a"), "a\nd\n") == "a"
