"""The picture of the house is that of the code: up to date, without circles, every arrow down."""

from __future__ import annotations

import importlib.util
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _drawer():
    spec = importlib.util.spec_from_file_location("draw_house", ROOT / "docs" / "draw_house.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["draw_house"] = module
    spec.loader.exec_module(module)
    return module


draw_house = _drawer()


def _tree(root: Path, files: dict[str, str]) -> None:
    for name, text in {"app/__init__.py": "", "tda_backend/__init__.py": "", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_the_picture_is_up_to_date():
    assert (ROOT / "docs" / "house.svg").read_text() == draw_house.draw(draw_house.read_house()), "run: make house"


def test_imports_run_in_no_circle():
    assert draw_house.read_house().circles() == []


def test_no_import_points_up():
    assert draw_house.read_house().upward() == []


def test_every_arrow_is_drawn_downwards():
    svg = ElementTree.fromstring((ROOT / "docs" / "house.svg").read_text())
    arrows = [node.get("d") or "" for node in svg.iter() if node.get("marker-end")]
    assert arrows
    for path in arrows:
        heights = [float(y) for y in re.findall(r"[MCL ][\d.]+ ([\d.]+)", path)]
        assert heights == sorted(heights), path


def test_every_room_is_drawn():
    text = (ROOT / "docs" / "house.svg").read_text()
    for room in draw_house.read_house().wing_of:
        assert draw_house._title(room).split(".")[-1] in text, room


def test_a_circle_and_an_upward_import_are_found_and_drawn_red(tmp_path: Path):
    room = '"""A room."""\n'
    _tree(
        tmp_path,
        {
            "tda_backend/numerics/__init__.py": "",
            "tda_backend/numerics/a/__init__.py": room,
            "tda_backend/numerics/b/__init__.py": room,
            "tda_backend/numerics/a/x.py": "from tda_backend.numerics.b import y\n",
            "tda_backend/numerics/b/y.py": "def f():\n    import tda_backend.numerics.a.x\n",
            "tda_backend/models/__init__.py": "",
            "tda_backend/models/m/__init__.py": room,
            "tda_backend/models/m/z.py": "from tda_backend.numerics.b.y import f\n",
        },
    )
    house = draw_house.read_house(tmp_path)
    names = ["tda_backend.numerics.a", "tda_backend.numerics.b"]
    assert house.circles() == [[f"{names[0]}.x", f"{names[1]}.y"], names]
    assert house.upward() == [("tda_backend.models.m.z", "tda_backend.numerics.b.y")]


def test_an_arrow_that_follows_from_others_is_left_out():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert draw_house.shown_arrows(graph) == [("a", "b", False), ("b", "c", False)]


def test_arrows_to_the_ground_are_left_out_but_no_circle_is(tmp_path: Path):
    _tree(
        tmp_path,
        {
            "tda_backend/models/__init__.py": "",
            "tda_backend/models/m.py": "from tda_backend import types\n",
            "tda_backend/models/n.py": "from tda_backend.models import m\n",
            "tda_backend/types.py": "from tda_backend import errors\n",
            "tda_backend/errors.py": "",
        },
    )
    names = [f"tda_backend.{name}" for name in ("models.m", "models.n", "types", "errors")]
    assert draw_house.drawn_arrows(draw_house.read_house(tmp_path)) == [
        (names[1], names[0], False),
        (names[2], names[3], False),
    ]
    (tmp_path / "tda_backend/types.py").write_text("from tda_backend.models import m\n")
    house = draw_house.read_house(tmp_path)
    assert (names[0], names[2], True) in draw_house.drawn_arrows(house)
    assert house.upward() == [(names[2], names[0])]


def test_the_address_that_own_files_use_is_no_room(tmp_path: Path):
    _tree(tmp_path, {"tda_backend/training/__init__.py": "", "tda_backend/training/tasks.py": ""})
    assert draw_house.read_house(tmp_path).wing_of == {}


def test_a_module_outside_the_wings_is_refused(tmp_path: Path):
    _tree(tmp_path, {"tda_backend/stray.py": ""})
    with pytest.raises(SystemExit, match=r"tda_backend\.stray stands in no wing"):
        draw_house.read_house(tmp_path)
