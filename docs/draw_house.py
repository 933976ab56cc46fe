"""Draw the map of the house from the code: ``python docs/draw_house.py`` writes ``docs/house.svg`` (or: make house).

Rooms are packages, and the single modules beside them; wings hold rooms; an arrow is an import. Every arrow must point
down; imports that run in a circle are drawn in red. An arrow that follows from others is left out: if a imports b and b
imports c, the picture does not show that a imports c too. Arrows to the ground are left out as well, since every room
uses it. Names and arrows come from the sources, what a room promises
is the first sentence of its docstring. It needs the standard library alone, and equal code gives an equal picture.
"""

from __future__ import annotations

import ast
import html
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("app", "tda_backend")
WINGS = {
    "app": ("app",),
    "interfaces": ("tda_backend.interfaces", "tda_backend.__main__"),
    "studies": ("tda_backend.studies",),
    "numerics": ("tda_backend.numerics",),
    "models": ("tda_backend.models",),
    "ground": (
        "tda_backend.types",
        "tda_backend.seeds",
        "tda_backend.finite",
        "tda_backend.blocks",
        "tda_backend.errors",
        "tda_backend.version",
    ),
}
"""Wing → its packages and modules, from the roof to the ground."""
GROUND = "ground"
FACES = ("tda_backend", "tda_backend.training", "tda_backend.training.tasks")
"""Addresses for people's own files: they name what the wings hold and stand in none."""
COLOURS = {
    "app": ("#e3edfd", "#2f5fb3"),
    "interfaces": ("#e0f3ee", "#1d7560"),
    "studies": ("#fbf1d9", "#8a6210"),
    "numerics": ("#efe7fb", "#6a45a8"),
    "models": ("#e2f2f9", "#21718f"),
    "ground": ("#eceff2", "#52606d"),
}
GROUND_PROMISE = "Words that everybody uses: types, seeds, finite numbers, blocks, errors"


@dataclass
class House:
    """What was read from the sources.

    Attributes:
        imports: Module → modules of the house that it imports.
        room_of: Module → its room.
        wing_of: Room → its wing.
        promises: Room or wing → the first sentence of its docstring.
    """

    imports: dict[str, set[str]] = field(default_factory=dict)
    room_of: dict[str, str] = field(default_factory=dict)
    wing_of: dict[str, str] = field(default_factory=dict)
    promises: dict[str, str] = field(default_factory=dict)

    def rooms(self) -> dict[str, set[str]]:
        """Return room → rooms that it imports."""
        found: dict[str, set[str]] = {room: set() for room in sorted(self.wing_of)}
        for module, others in self.imports.items():
            found[self.room_of[module]] |= {self.room_of[other] for other in others} - {self.room_of[module]}
        return found

    def circles(self) -> list[list[str]]:
        """Return the sets of modules, and of rooms, that import each other in a circle."""
        return circles(self.imports) + circles(self.rooms())

    def upward(self) -> list[tuple[str, str]]:
        """Return imports of a higher wing by a lower one."""
        height = {wing: -place for place, wing in enumerate(WINGS)}
        wing = {module: self.wing_of[room] for module, room in self.room_of.items()}
        pairs = [(module, other) for module, others in self.imports.items() for other in sorted(others)]
        return [(a, b) for a, b in pairs if height[wing[b]] > height[wing[a]]]


def read_house(root: Path = ROOT) -> House:
    """Read modules, imports and docstrings below ``root``; nothing is imported or run."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    names = {_module(path.relative_to(root)): path for path in paths}
    for face in FACES:
        names.pop(face, None)
    house = House()
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wing, room = _place(name)
        house.room_of[name], house.wing_of[room] = room, wing
        house.imports[name] = {found for found in _imported(tree, names) if found != name}
        if path.name == "__init__.py" and name in (room, WINGS[wing][0]):
            house.promises[wing if name == WINGS[wing][0] else room] = _promise(tree)
    house.promises[GROUND] = GROUND_PROMISE
    for members in WINGS.values():  # a wing's own __init__ is no room if it holds and imports nothing
        for member in members:
            empty = not house.imports.get(member, {member})
            if house.room_of.get(member) == member and empty and names[member].name == "__init__.py":
                house.room_of.pop(member), house.imports.pop(member), house.wing_of.pop(member)
    return house


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _place(name: str) -> tuple[str, str]:
    """Return a module's wing and room: the package one floor below the wing, or the module that stands there alone."""
    for wing, members in WINGS.items():
        for member in members:
            if name == member or name.startswith(f"{member}."):
                inner = name.removeprefix(member).strip(".").split(".")
                return wing, f"{member}.{inner[0]}" if inner[0] else member
    raise SystemExit(f"{name} stands in no wing: move it, or name its wing in WINGS of docs/draw_house.py.")


def _imported(tree: ast.Module, names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {path if path in names else node.module for path in inner.values()}
    return found & set(names)


def _promise(tree: ast.Module) -> str:
    text = " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]+)`", r"\1", text).replace("``", "")
    return text.split(". ")[0].rstrip(".")


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected sets of more than one node, sorted."""
    reach = {node: _reachable(graph, node) for node in graph}
    found = {tuple(sorted(other for other in reach[node] if node in reach[other])) for node in graph}
    return [list(circle) for circle in sorted(found) if len(circle) > 1]


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph[node]
    return seen


def shown_arrows(graph: Mapping[str, set[str]]) -> list[tuple[str, str, bool]]:
    """Return (from, to, in a circle) of the arrows that do not follow from others."""
    tangled = {node: number for number, circle in enumerate(circles(graph)) for node in circle}
    red = {(a, b) for a in graph for b in graph[a] if a in tangled and tangled[a] == tangled.get(b)}
    straight = {a: {b for b in graph[a] if (a, b) not in red} for a in graph}
    reach = {node: _reachable(straight, node) for node in straight}
    follows = {(a, b) for a in straight for c in straight[a] for b in reach[c]}
    kept = [(a, b, False) for a in straight for b in sorted(straight[a]) if (a, b) not in follows]
    return kept + [(a, b, True) for a, b in sorted(red)]


LEFT, NARROWEST, MARGIN, TOP = 232, 660, 44, 112
ROOM, SMALL, LINE = 236, 34, 14  # width of a room, height of a single module, height of a line of text
GAP, ROW_GAP, WING_GAP, PAD = 26, 26, 12, 14


@dataclass
class Box:
    """A room in the picture, several modules side by side, or (without names) the place where an arrow passes."""

    names: tuple[str, ...] = ()
    title: str = ""
    lines: tuple[str, ...] = ()
    wing: str = ""
    x: float = 0.0
    y: int = 0
    width: int = 10
    height: int = 0


def rows_of(house: House) -> list[list[Box]]:
    """Return the rooms in rows, the highest first; an import never leads to the same row or one above."""
    graph = house.rooms()
    tangled = {node: circle[0] for circle in circles(graph) for node in circle}
    rows: list[list[Box]] = []
    for wing in WINGS:
        mine = [room for room in graph if house.wing_of[room] == wing]
        merged = {room: tangled.get(room, room) for room in mine}
        below: dict[str, set[str]] = {}
        for room in mine:
            others = {merged[other] for other in graph[room] if other in merged}
            below.setdefault(merged[room], set()).update(others - {merged[room]})
        floor: dict[str, int] = {}
        for room in TopologicalSorter(below).static_order():
            floor[room] = 1 + max((floor[other] for other in below[room]), default=-1)
        for level in range(max(floor.values(), default=-1), -1, -1):
            rows.append(_row(house, wing, [room for room in mine if floor[merged[room]] == level]))
    return rows


def _row(house: House, wing: str, rooms: Sequence[str]) -> list[Box]:
    """Return the boxes of one row; modules that stand alone share one box, since none of them imports another."""
    boxes = []
    for room in rooms:
        if room in house.promises:
            lines = tuple(textwrap.wrap(house.promises[room], 38))
            lines = lines if len(lines) <= 3 else (*lines[:2], f"{textwrap.shorten(lines[2], 34, placeholder='')} …")
            boxes.append(Box((room,), _title(room), lines, wing, width=ROOM, height=32 + LINE * max(1, len(lines)) + 8))
    alone = tuple(room for room in rooms if room not in house.promises)
    if alone:
        title = " · ".join(_title(room) for room in alone)
        boxes.append(Box(alone, title, (), wing, width=max(96, 8 * len(title) + 32), height=SMALL))
    return boxes


def _title(room: str) -> str:
    parts = [part for part in room.split(".") if part not in ("tda_backend", "app", "interfaces", *WINGS)]
    return ".".join(parts) or room


def place(rows: list[list[Box]], arrows: Sequence[tuple[str, str, bool]]) -> list[tuple[list[Box], bool]]:
    """Give every box its place and return each arrow as the boxes that it passes, top to bottom.

    Arrows over several rows get a narrow box in each row between. Rows are sorted by the mean place of the neighbours
    in the row above, then below, a few times; within the order, boxes stand as near to that mean as their widths allow.
    """
    at = {name: (number, box) for number, row in enumerate(rows) for box in row for name in box.names}
    ways: dict[tuple[int, int], tuple[list[Box], bool]] = {}
    for a, b, is_red in arrows:
        (high, source), (low, target) = at[a], at[b]
        if (id(source), id(target)) in ways or source is target:
            continue
        way = [source]
        for number in range(high + 1, low):
            rows[number].append(Box())
            way.append(rows[number][-1])
        ways[id(source), id(target)] = ([*way, target], is_red)
    near: dict[int, tuple[list[Box], list[Box]]] = {id(box): ([], []) for row in rows for box in row}
    for way, _ in ways.values():
        for above, under in pairwise(way):
            near[id(above)][1].append(under)
            near[id(under)][0].append(above)
    right = LEFT + max(NARROWEST, *(sum(box.width + GAP for box in row) for row in rows))
    for row in rows:
        _settle(row, [LEFT + (right - LEFT) * (i + 1) / (len(row) + 1) for i in range(len(row))], right)
    for sweep in range(120):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            wanted = [_wish(box, near[id(box)], sweep) for box in row]
            order = sorted(range(len(row)), key=lambda i: (wanted[i], i))
            row[:] = [row[i] for i in order]
            _settle(row, [wanted[i] for i in order], right)
    y, wing = TOP, ""
    for row in rows:
        named = next(box for box in row if box.names)
        y += (WING_GAP + 2 * PAD - ROW_GAP if wing else PAD) if named.wing != wing else 0
        wing, height = named.wing, max(box.height for box in row)
        for box in row:
            box.y = y + (height - box.height) // 2 if box.names else y
            box.height = box.height or height
        y += height + ROW_GAP
    return list(ways.values())


def _wish(box: Box, near: tuple[list[Box], list[Box]], sweep: int) -> float:
    chosen = near[sweep % 2] if sweep < 20 else near[0] + near[1]
    return sum(other.x for other in chosen) / len(chosen) if chosen else box.x


def _settle(row: list[Box], wanted: Sequence[float], right: float) -> None:
    """Place a row's boxes in their order, nearest to ``wanted`` in the least-squares sense, without overlap."""
    offsets = [0.0]
    for left, next_one in pairwise(row):
        gap = GAP if left.names and next_one.names else GAP // 2
        offsets.append(offsets[-1] + (left.width + next_one.width) / 2 + gap)
    groups: list[list[float]] = []  # isotonic regression: pool neighbours that would overlap
    for wish, offset in zip(wanted, offsets, strict=True):
        groups.append([wish - offset, 1])
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (mean, count), (other, number) = groups.pop(), groups.pop()
            groups.append([(mean * count + other * number) / (count + number), count + number])
    free = [mean for mean, count in groups for _ in range(int(count))]
    low = LEFT + row[0].width / 2
    high = max(low, right - row[-1].width / 2 - offsets[-1])
    for box, start, offset in zip(row, free, offsets, strict=True):
        box.x = round(min(max(start, low), high) + offset, 1)


def drawn_arrows(house: House) -> list[tuple[str, str, bool]]:
    """Return :func:`shown_arrows` without those to the ground from above it, unless they run in a circle."""

    def is_common(source: str, target: str) -> bool:
        return house.wing_of[target] == GROUND != house.wing_of[source]

    return [(a, b, is_red) for a, b, is_red in shown_arrows(house.rooms()) if is_red or not is_common(a, b)]


def draw(house: House) -> str:
    """Return the picture as SVG text."""
    rows = rows_of(house)
    ways = place(rows, drawn_arrows(house))
    height = max(box.y + box.height for row in rows for box in row) + PAD + 24
    width = round(max(LEFT + NARROWEST, *(box.x + box.width / 2 for row in rows for box in row)) + MARGIN)
    note = (
        "Rooms are packages, and arrows are imports: all point down. Arrows that follow from others or lead to the "
        f"ground are left out. Circles: {len(house.circles())}."
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-labelledby="title note" font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, '
        'sans-serif">',
        '<title id="title">The house: wings, rooms, and who imports whom</title>',
        f'<rect x="1" y="1" width="{width - 2}" height="{height - 2}" rx="18" fill="#ffffff" stroke="#d9dee4"/>',
        '<text x="32" y="50" font-size="24" font-weight="600" fill="#1f2933">The house</text>',
        _text(32, 78, note, 'id="note" font-size="14" fill="#52606d"'),
        "<defs>",
        *(
            f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0.8 L7.5 4 L0 7.2 z" fill="{colour}"/></marker>'
            for name, colour in (("head", "#8794a3"), ("red", "#d0342c"))
        ),
        "</defs>",
        *(_draw_wing(house, wing, [box for row in rows for box in row if box.wing == wing], width) for wing in WINGS),
        *_draw_arrows(ways),
        *(_draw_room(box) for row in rows for box in row if box.names),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(x: float, y: float, text: str, style: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" {style}>{html.escape(text, quote=False)}</text>'


def _draw_wing(house: House, wing: str, boxes: Sequence[Box], width: int) -> str:
    if not boxes:
        return ""
    pale, strong = COLOURS[wing]
    top = min(box.y for box in boxes) - PAD
    height = max(box.y + box.height for box in boxes) + PAD - top
    lines = textwrap.wrap(house.promises.get(wing, ""), 27)[: max(0, (height - 45) // 15)]
    small = 'font-size="11.5" fill="#52606d"'
    return "\n".join(
        [
            f'<rect x="20" y="{top}" width="{width - 40}" height="{height}" rx="14" fill="{pale}"/>',
            _text(38, top + 28, wing, f'font-size="17" font-weight="600" fill="{strong}"'),
            *(_text(38, top + 48 + 15 * i, line, small) for i, line in enumerate(lines)),
        ]
    )


def _draw_room(box: Box) -> str:
    _, strong = COLOURS[box.wing]
    left = box.x - box.width / 2
    rect = f'<rect x="{left:g}" y="{box.y}" width="{box.width}" height="{box.height}" rx="9" fill="#ffffff" '
    base = box.y + (22 if box.lines else box.height / 2 + 5)
    title = f'font-size="{14 if box.lines else 13}" font-weight="600" fill="#1f2933" text-anchor="middle"'
    small = 'font-size="11" fill="#52606d" text-anchor="middle"'
    lines = [_text(box.x, box.y + 39 + LINE * i, line, small) for i, line in enumerate(box.lines)]
    return "\n".join([f'{rect}stroke="{strong}" stroke-opacity="0.45"/>', _text(box.x, base, box.title, title), *lines])


def _draw_arrows(ways: Sequence[tuple[list[Box], bool]]) -> list[str]:
    """Return the arrows as smooth lines; those that leave or reach one room are spread over its edge."""
    leaving: dict[int, list[list[Box]]] = {}
    reaching: dict[int, list[list[Box]]] = {}
    for way, _ in ways:
        leaving.setdefault(id(way[0]), []).append(way)
        reaching.setdefault(id(way[-1]), []).append(way)
    drawn = []
    for way, is_red in ways:
        start = _port(way[0], leaving[id(way[0])], way, 1), way[0].y + way[0].height
        end = _port(way[-1], reaching[id(way[-1])], way, -2), way[-1].y - 2
        path, last = f"M{start[0]:g} {start[1]}", start
        for box in way[1:-1]:
            path += _bend(last, (box.x, box.y)) + f" L{box.x:g} {box.y + box.height}"
            last = box.x, box.y + box.height
        path += _bend(last, end)
        colour, head = ("#d0342c", "red") if is_red else ("#8794a3", "head")
        drawn.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.5" marker-end="url(#{head})"/>')
    return drawn


def _port(box: Box, ways: list[list[Box]], way: list[Box], neighbour: int) -> float:
    order = sorted(range(len(ways)), key=lambda i: (ways[i][neighbour].x, i))
    place = next(i for i, index in enumerate(order) if ways[index] is way)
    step = min(22.0, (box.width - 30) / max(1, len(ways)))
    return round(box.x + step * (place - (len(ways) - 1) / 2), 1)


def _bend(start: tuple[float, float], end: tuple[float, float]) -> str:
    middle = (start[1] + end[1]) / 2
    return f" C{start[0]:g} {middle:g} {end[0]:g} {middle:g} {end[0]:g} {end[1]:g}"


def main() -> int:
    """Write the picture, and say what it shows; return 1 if an import runs in a circle or points up."""
    house = read_house()
    (ROOT / "docs" / "house.svg").write_text(draw(house), encoding="utf-8")
    graph = house.rooms()
    found, upward = house.circles(), house.upward()
    print(f"docs/house.svg: {len(house.imports)} modules in {len(graph)} rooms")
    print(f"{sum(map(len, graph.values()))} arrows, {len(drawn_arrows(house))} drawn, {len(found)} circles")
    print(*(f"circle: {', '.join(circle)}" for circle in found), *(f"upward: {a} → {b}" for a, b in upward), sep="\n")
    return 1 if found or upward else 0


if __name__ == "__main__":
    sys.exit(main())
