"""A view and its URL are the same thing; what does not exist is replaced by the nearest, and said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.configurations import Configuration, Configurations
from app.formats import (
    count_text,
    duration_text,
    lds_text,
    parse_regularization,
    plain,
    rate_text,
    regularization_text,
    signed,
)
from app.nearest import nearest
from app.settings import Settings, choices_of, label, ordered, parse_settings, settings_of, settings_text, words
from app.state import View, at_configuration, parse, to_params
from app.views.sensitivity.grid import SETTING, axis_label
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.studies.methods import METHODS

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="|", exclude_categories=("Cs",)), min_size=1, max_size=8
)
names = st.from_regex("[a-z][a-z_-]{0,9}", fullmatch=True).filter(lambda text: text != "tracin-normalization")
views = st.builds(
    View,
    study=texts,
    method=names,
    settings=st.dictionaries(names, names, max_size=3).map(lambda chosen: tuple(sorted(chosen.items()))),
    beside=st.none() | st.lists(names, max_size=3).map(tuple),
    axes=st.lists(names, max_size=3).map(tuple),
    epoch=st.none() | st.integers(0, 999),
    k=st.sampled_from(["", "none", "128", "2048"]),
    lam=st.none() | st.floats(0, 1e6, allow_subnormal=False).map(lambda value: float(f"{value:.6g}")),
    query=st.none() | st.integers(0, 10**6),
    classes=st.lists(texts, max_size=4).map(tuple),
    right=st.sampled_from(["", "right", "wrong"]),
    pick=st.sampled_from(["all", "wrong", "margin"]),
    pick_class=st.just("") | texts,
    alpha=st.none() | st.sampled_from([0.25, 0.5]),
    xi=st.sampled_from([0.3, 0.5, 0.65]),
    paper=st.sampled_from(["", "taming"]),
    verdict=st.sampled_from(["", "not run"]),
    claims=st.lists(names, max_size=3).map(tuple),
    versus=st.just("") | names,
    versus_at=st.sampled_from(["selected", "best", "same"]),
    run=st.none() | st.integers(0, 9),
    rate=st.none() | st.sampled_from([1e-3, 5e-5, 3e-4]),
    effect=st.none() | st.integers(0, 999),
    truth=st.sampled_from(["fixed", "smaller"]),
    strategy=st.just("") | names,
    kept=st.none() | st.integers(0, 999),
    results=st.lists(names, max_size=2).map(tuple),
)


@given(views)
def test_a_view_survives_its_url(view):
    again, notes = parse(to_params(view))
    assert again == view
    assert not notes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epoch", "late"),
        ("epoch", "9" * 5000),
        ("k", "many"),
        ("lam", "-1"),
        ("lam", "nan"),
        ("lam", "<b>"),
        ("query", "-3"),
        ("query", "1.5"),
        ("right", "maybe"),
        ("rate", "fast"),
        ("truth", "x"),
        ("pick", "x"),
        ("alpha", "2"),
        ("xi", "7"),
    ],
)
def test_a_value_that_cannot_be_read_falls_back_and_is_named(name, text):
    view, notes = parse({name: text})
    assert view == View()
    assert [(each.name, each.text) for each in notes] == [(name, text)]
    assert notes[0].sentence({name: "5"}).startswith(f"The link says {name} = {text[:40]!r}"[:-1])
    assert notes[0].sentence({name: "5"}).endswith("; shown: 5.")
    assert "shown" in notes[0].sentence({})


def configuration(identity: str, method: str, epoch: int, k: int | None, lds: float, **more: Settings) -> Configuration:
    """Return a configuration with as little as choosing needs."""
    title = method.upper()
    row = ConfigurationRow(identity, method, title, epoch, k, "{}", identity, True, True, 1)
    return Configuration(**vars(row), variant=method, variant_title=title, method_title=title, best_lds=lds, **more)


def table() -> Configurations:
    rows = [
        ("iffim", 1, 128, 0.2),
        ("iffim", 5, 128, 0.3),
        ("iffim", 5, None, 0.4),
        ("trak", 20, None, 0.1),
        ("trak", 5, 512, 0.25),
    ]
    return Configurations(tuple(configuration(name, *row) for name, row in zip("abcde", rows, strict=True)))


def solver_table() -> Configurations:
    """Return conjugate gradients with steps and curvature, but not in every combination."""
    rows = [
        (5, "empirical-fisher", 0.2),
        (10, "empirical-fisher", 0.3),
        (50, "empirical-fisher", 0.1),
        (10, "ggn", 0.5),
    ]
    usual = (("curvature", "empirical-fisher"), ("max_iter", "10"))
    found = []
    for name, (steps, curvature, lds) in zip("abcd", rows, strict=True):
        own = (("curvature", curvature), ("max_iter", str(steps)))
        found.append(configuration(name, "if-cg", 5, None, lds, settings=own, choices=own, defaults=usual))
    return Configurations(tuple(found))


def test_an_exact_configuration_is_found_without_a_word():
    row, note = nearest(table(), View(method="iffim", epoch=5, k="128"))
    assert (row.configuration_id, note) == ("b", "")
    assert at_configuration(View(), row) == View(method="iffim", epoch=5, k="128")


def test_nothing_chosen_means_the_best():
    assert nearest(table(), View())[0].configuration_id == "c"
    assert nearest(table(), View(method="trak"))[0].configuration_id == "e"


def test_a_missing_combination_gives_the_nearest_and_says_so():
    row, note = nearest(table(), View(method="iffim", epoch=1, k="none"))
    assert row.configuration_id in "ac"
    assert "epoch 1" in note
    assert "nearest" in note


def test_what_was_just_chosen_holds():
    row, note = nearest(table(), View(method="trak", epoch=5, k="none"), pinned="k")
    assert row.configuration_id == "d"
    assert "epoch 20" in note
    assert nearest(table(), View(method="trak", epoch=5, k="none"), pinned="epoch")[0].configuration_id == "e"


def test_an_unknown_method_is_named_with_the_known_ones():
    _, note = nearest(table(), View(method="magic", epoch=5, k="128"))
    assert "'magic'" in note
    assert "iffim, trak" in note


def test_a_setting_that_was_just_chosen_holds():
    wanted = View(method="if-cg", epoch=5, k="none", settings=(("curvature", "ggn"), ("max_iter", "50")))
    row, note = nearest(solver_table(), wanted, pinned="max_iter")
    assert row.configuration_id == "c"
    assert "ggn curvature" in note
    assert "max iter 50" in note
    assert nearest(solver_table(), wanted, pinned="curvature")[0].configuration_id == "d"


def test_the_nearest_number_is_taken():
    view = View(method="if-cg", epoch=5, k="none", settings=(("curvature", "empirical-fisher"), ("max_iter", "40")))
    row, note = nearest(solver_table(), view)
    assert row.configuration_id == "c"
    assert "nearest" in note


def test_what_nobody_chose_is_at_its_default():
    row, note = nearest(solver_table(), View(method="if-cg", epoch=5, k="none"))
    assert (row.configuration_id, note) == ("b", "")
    row, note = nearest(solver_table(), View(method="if-cg", settings=(("curvature", "ggn"),)))
    assert (row.configuration_id, note) == ("d", "")
    assert at_configuration(View(), row).settings == (("curvature", "ggn"), ("max_iter", "10"))


def test_a_setting_that_the_method_lacks_is_named_with_those_it_has():
    row, note = nearest(solver_table(), View(method="if-cg", settings=(("magic", "1"),)))
    assert row.configuration_id == "d"  # the best, for nothing else was asked for
    assert "'magic'" in note
    assert "curvature, max_iter" in note


def test_an_old_link_opens_what_it_meant():
    view, notes = parse({"method": "tracin-normalization", "epoch": "5"})
    assert (view.method, view.settings, notes) == ("tracin", (("normalization", "true"),), [])
    view, notes = parse({"method": "tracin", "set": "normalization"})
    assert view.settings == ()
    assert notes[0].text == "normalization"


def test_settings_are_read_and_written():
    assert parse_settings("fisher:true,damping:relative") == ((("damping", "relative"), ("fisher", "true")), [])
    assert settings_text((("max_iter", "5"), ("curvature", "ggn"))) == "curvature:ggn,max_iter:5"
    own = settings_of({"max_iter": 20}, METHODS["if-cg"].swept)
    assert own == (("curvature", "empirical-fisher"), ("max_iter", "20"))
    assert settings_of({}, METHODS["trak"].swept) == (("half_subset_models", "0"), ("num_eigenvalues", "0"))
    assert choices_of([(("a", "1"), ("b", "2")), (("a", "1"), ("b", "3"))]) == ["b"]
    assert ordered(["50", "5", "10", "5"]) == ["5", "10", "50"]
    assert [words("damping", "relative"), words("normalization", "false"), words("max_iter", "5")] == [
        "relative damping",
        "no normalization",
        "max iter 5",
    ]
    assert [words("fisher", "true"), words("num_eigenvalues", "0"), words("num_eigenvalues", "512")] == [
        "true fisher",
        "all eigenvalues",
        "eigenvalues 512",
    ]
    assert [words("of_another_version", "3"), label("regularization")] == ["of another version 3", "λ of the run"]
    assert [axis_label(value, f"{SETTING}num_eigenvalues") for value in ("0", "512")] == ["all", "512"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1e-7, "1e-7"),
        (3.4567e-4, "3.46e-4"),
        (0.0354, "0.0354"),
        (0.99999, "1"),
        (10, "10"),
        (1234, "1230"),
        (None, "–"),
    ],
)
def test_regularization_is_written_with_three_digits(value, text):
    assert regularization_text(value) == text


@pytest.mark.parametrize(("text", "value"), [("1e-3", 1e-3), (" 0,5 ", 0.5), ("0", 0.0), ("-1", None), ("inf", None)])
def test_a_typed_regularization_is_read_or_refused(text, value):
    assert parse_regularization(text) == value


def test_numbers_are_written_as_people_read_them():
    assert lds_text(0.41234, 0.381, -0.02) == "0.412 (0.381 to −0.020)"
    assert duration_text(59.6) == "1 min 0 s"
    assert duration_text(4000) == "1 h 6 min"
    assert rate_text(12.34) == "12/s"
    assert count_text(5000, "query", "queries") == "5\u202f000 queries"
    assert plain("<b>*x*</b> [y](z) $1$") == r"\<b\>\*x\*\</b\> \[y\]\(z\) \$1\$"


@pytest.mark.parametrize(("value", "text"), [(-0.5, "−0.50"), (None, "–"), (float("nan"), "–")])
def test_what_is_no_number_is_a_dash(value, text):
    assert signed(value, 2) == text
