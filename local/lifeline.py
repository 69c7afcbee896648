"""Run a module as `python -m` does, for no longer than the process that started it lives.

Standard input is the lifeline: when its other end closes, however the parent ended, this process and all that it
started are killed. Run as a script, by path, so that nothing of this package gets onto the module's path.
"""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    sys.path[0] = str(os.getcwd())  # noqa: PTH109 - pathlib would cost every handler's cold start
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _die_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
