"""Drop ticks of clocks that would undo what a visitor has just asked for.

A browser's timers go on until it hears that the page has changed. Streamlit (1.67) folds a tick into a request that has
not begun yet, and takes the page from the newer of the two, the tick: on a busy machine a click on a link then leads
nowhere. A tick that waits until a run has ended is run under the page that it came from, though another one is shown by
then. Neither is of use: what a visitor asks for draws the page whole, its clocks' parts included. So from the request
until the server says that the run has ended, ticks end here. A button in a part of a page that a clock draws runs that
part alone, which may then lead to another page: there, too, ticks end here from the click to the end of the run.
"""

from __future__ import annotations

import math
import time

from google.protobuf.message import DecodeError
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

LARGEST = 1 << 16
"""Bytes of the largest message that may announce a run or its end; larger ones carry what is drawn."""
_ENDS = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_WITH_COMPILE_ERROR)
"""How a whole run ends. An end that only makes way for a rerun is none: the run that was asked for is still to come."""
PATIENCE_SECONDS = 10.0
"""How long a part that was touched may take to begin: one that is gone by then is never run, and nobody says so."""


class LateTicks:
    """ASGI middleware for the websockets of pages."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on all but late ticks."""
        if scope["type"] != "websocket":
            await self.app(scope, receive, send)
            return
        line = _Line()

        async def receiving() -> Message:
            while True:
                message = await receive()
                if not line.is_late_tick(message.get("bytes")):
                    return message

        async def sending(message: Message) -> None:
            line.hear(message.get("bytes"))
            await send(message)

        await self.app(scope, receiving, sending)


class _Line:
    """What one browser has asked for and not got yet."""

    def __init__(self) -> None:
        self._is_asked = False
        self._is_begun = False
        self._touched = ""  # the part of a page that the visitor has touched last
        self._touched_until = 0.0  # when nobody waits for it any more

    def is_late_tick(self, content: bytes | None) -> bool:
        """Note a message of the browser, and return whether it is a tick while something else is asked for."""
        asked = BackMsg()
        if not content or not _parsed(asked, content) or not asked.HasField("rerun_script"):
            return False
        part = asked.rerun_script.fragment_id
        if asked.rerun_script.is_auto_rerun:
            return self._is_asked or (bool(self._touched) and time.monotonic() < self._touched_until)
        self._touched, self._touched_until = part, time.monotonic() + PATIENCE_SECONDS
        if not part:
            self._is_asked, self._is_begun = True, False
        return False

    def hear(self, content: bytes | None) -> None:
        """Note a message of the server: a run begins, or ends."""
        said = ForwardMsg()
        if not content or len(content) > LARGEST or not _parsed(said, content):
            return
        if said.HasField("new_session"):
            self._hear_begin(list(said.metadata.run.fragment_ids))
        elif said.HasField("script_finished"):
            self._hear_end(said.script_finished, list(said.metadata.run.fragment_ids))

    def _hear_begin(self, parts: list[str]) -> None:
        if self._touched in parts:
            self._touched_until = math.inf
        elif not parts and not self._is_asked:  # what was touched leads to another page, or draws this one anew
            self._touched, self._is_asked = "", True
        self._is_begun = self._is_begun or not parts

    def _hear_end(self, how: int, parts: list[str]) -> None:
        if how in _ENDS and self._is_begun:
            self._is_asked = self._is_begun = False
        elif how == ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY and self._touched in parts:
            self._touched = ""
        if self._touched:  # its turn comes now
            self._touched_until = time.monotonic() + PATIENCE_SECONDS


def _parsed(message: BackMsg | ForwardMsg, content: bytes) -> bool:
    try:
        message.ParseFromString(content)
    except DecodeError:
        return False
    return True
