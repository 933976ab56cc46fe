"""What holds for all tests."""

from __future__ import annotations

import signal
import threading

# A shell that starts a job in the background makes it ignore Ctrl-C, and so would every program that a test starts:
# those that test Ctrl-C would wait forever. A handler of Python's own is not inherited; children get the default.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
