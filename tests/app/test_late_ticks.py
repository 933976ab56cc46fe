"""Ticks of clocks between what a visitor asks for and its end: none may reach the server."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from app.late_ticks import LARGEST, LateTicks
from tests.app.loops import result_of


def asked(page: str, fragment: str = "", tick: bool = False) -> bytes:
    message = BackMsg()
    message.rerun_script.page_script_hash = page
    message.rerun_script.fragment_id = fragment
    message.rerun_script.is_auto_rerun = tick
    return message.SerializeToString()


def begun(page: str, part: str = "") -> bytes:
    message = ForwardMsg()
    message.new_session.page_script_hash = page
    message.metadata.run.fragment_ids.extend([part] if part else [])
    return message.SerializeToString()


def ended(status: Any, part: str = "") -> bytes:
    message = ForwardMsg(script_finished=status)
    message.metadata.run.fragment_ids.extend([part] if part else [])
    return message.SerializeToString()


TICK = asked("old", "clock", tick=True)
CLICK = asked("new")
DONE, MAKES_WAY = ended(ForwardMsg.FINISHED_SUCCESSFULLY), ended(ForwardMsg.FINISHED_EARLY_FOR_RERUN)
PART_DONE = ended(ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY, "clock")
TOUCH = asked("old", "part")
TOUCH_DONE = ended(ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY, "part")
TOUCH_LEADS = (begun("old", "part"), ended(ForwardMsg.FINISHED_EARLY_FOR_RERUN, "part"), begun("new"))


def reached(*events: tuple[str, bytes]) -> list[bytes]:
    """Return what reaches the server when the browser sends (``"<"``) and the server answers (``">"``) in turn."""
    incoming = [content for side, content in events if side == "<"]
    arrived: list[bytes] = []

    async def server(_scope: Any, receive: Any, send: Any) -> None:
        position = 0
        while position < len(events):
            side, content = events[position]
            if side == ">":
                await send({"type": "websocket.send", "bytes": content})
                position += 1
                continue
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            arrived.append(message["bytes"])
            position = next(at for at in range(position, len(events)) if events[at] == ("<", message["bytes"])) + 1

    async def receive() -> dict[str, Any]:
        if not incoming:
            return {"type": "websocket.disconnect"}
        return {"type": "websocket.receive", "bytes": incoming.pop(0)}

    async def send(_message: Any) -> None:
        return None

    result_of(LateTicks(server)({"type": "websocket"}, receive, send))
    return arrived


def test_ticks_arrive_while_nothing_is_asked_for():
    assert reached(("<", TICK), (">", PART_DONE), ("<", TICK)) == [TICK, TICK]


def test_a_tick_behind_a_click_is_dropped():
    assert reached(("<", CLICK), ("<", TICK)) == [CLICK]


def test_ticks_arrive_again_once_the_run_has_ended():
    assert reached(("<", CLICK), (">", begun("new")), (">", DONE), ("<", TICK)) == [CLICK, TICK]


@pytest.mark.parametrize("told", [[DONE], [begun("new")], [begun("new"), MAKES_WAY], [begun("new"), PART_DONE]])
def test_what_does_not_end_the_run_lets_none_through(told: list[bytes]):
    assert reached(("<", CLICK), *((">", content) for content in told), ("<", TICK), ("<", CLICK)) == [CLICK, CLICK]


def test_a_second_click_waits_for_its_own_run():
    events = [("<", CLICK), (">", begun("new")), ("<", asked("third")), (">", DONE), ("<", TICK), ("<", CLICK)]
    assert reached(*events) == [CLICK, asked("third"), CLICK]


@pytest.mark.parametrize(
    "told",
    [
        [],
        [begun("old", "clock")],
        [begun("old", "clock"), PART_DONE],
        [begun("old", "part")],
        TOUCH_LEADS[:2],
        TOUCH_LEADS,
        [*TOUCH_LEADS, begun("new", "clock"), PART_DONE],
    ],
)
def test_a_tick_behind_what_a_visitor_touched_is_dropped(told: list[bytes]):
    assert reached(("<", TOUCH), *((">", content) for content in told), ("<", TICK), ("<", CLICK)) == [TOUCH, CLICK]


@pytest.mark.parametrize("told", [[begun("old", "part"), TOUCH_DONE], [*TOUCH_LEADS, DONE]])
def test_ticks_arrive_again_once_what_was_touched_is_drawn(told: list[bytes]):
    assert reached(("<", TOUCH), *((">", content) for content in told), ("<", TICK)) == [TOUCH, TICK]


def test_a_part_that_is_never_run_stops_no_clock(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("app.late_ticks.PATIENCE_SECONDS", 0.0)
    assert reached(("<", TOUCH), ("<", TICK)) == [TOUCH, TICK]
    assert reached(("<", TOUCH), (">", begun("old", "part")), ("<", TICK)) == [TOUCH]


def test_what_is_no_message_of_a_page_passes():
    assert reached(("<", b"\xff\xff\xff"), ("<", CLICK), (">", b"x" * (LARGEST + 1)), (">", b"\xff")) == [
        b"\xff\xff\xff",
        CLICK,
    ]
