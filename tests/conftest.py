"""What holds for all tests."""

from __future__ import annotations

import signal
import threading

# A shell that starts a job in the background makes it ignore SIGINT and SIGQUIT, and `nohup` a hangup, and so would
# every program that a test starts: those that test these would wait forever. A handler of Python's own is not
# inherited; children get the default.
if threading.current_thread() is threading.main_thread():
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    if signal.getsignal(signal.SIGQUIT) == signal.SIG_IGN:
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
