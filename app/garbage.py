"""What lives as long as the server, and so is never garbage."""

from __future__ import annotations

import atexit
import functools
import gc


@functools.cache
def spare_what_stays() -> None:
    """Let no garbage collection look through what lives by now; call it once all pages are imported.

    Streamlit (1.67) collects all garbage after every run of a page, were it only for a click. Most of what lives is
    modules, which stay: to look through them takes longer than to draw most pages.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # where a process ends, libraries expect that all is garbage
