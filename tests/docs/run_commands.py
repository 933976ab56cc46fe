"""Run the commands of one worked example in one process, for starting Python with torch takes seconds each time.

Arguments are command lines: ``tda …``, ``python FILE`` or ``python -c CODE``. A NUL follows what each prints; the first
that fails is the last, and its exit code is that of the process.
"""

from __future__ import annotations

import runpy
import shlex
import sys

from tda_backend.interfaces.cli.main import main


def run(line: str) -> int:
    """Run a command and return its exit code."""
    program, *arguments = shlex.split(line)
    try:
        if program == "tda":
            return main(arguments)
        if arguments[0] == "-c":
            exec(compile(arguments[1], "<command>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    for each in sys.argv[1:]:
        code = run(each)
        sys.stderr.flush()
        sys.stdout.write("\0")
        sys.stdout.flush()
        if code:
            sys.exit(code)
