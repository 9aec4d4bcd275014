"""``hoptm-bench``: finds the command, and turns errors and signals into one line and an exit code.

Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from hoptm_plugin.cli.arguments import PLAIN
from hoptm_plugin.cli.help import HELP, OVERVIEW, PROGRAM
from hoptm_plugin.cli.streams import fail, let_go, plain_warnings, tolerate_encodings
from hoptm_plugin.core.errors import HopTMError
from hoptm_plugin.core.text import unknown_name
from hoptm_plugin.runtime.stopping import INTERRUPTED, Stopped, stop_on_signals


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit.

    0: done. 1: a run failed. 2: something the user can mend. 75: asked to stop by SIGTERM or SIGUSR2, can go on.
    130: interrupted by Ctrl-C.
    """
    tolerate_encodings()
    plain_warnings()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stop_on_signals():
            _command(given)
        sys.stdout.flush()
    except HopTMError as error:
        fail(str(error), error.exit_code)
    except Stopped as stopped:
        again = "; a sweep goes on by the same command with resume=auto and its folder as hydra.sweep.dir"
        fail(f"stopped by {stopped}{again if '-m' in given else ''}", stopped.exit_code)
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has gone; nothing is left to be said to him
        raise SystemExit(1) from None
    except OSError as error:
        what = "standard output" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "input or output"
        fail(f"{error.filename or what}: {error.strerror or error}", 1)
    finally:
        let_go(sys.stdout, sys.stderr)


def _command(arguments: list[str]) -> None:
    if not arguments:
        fail(f"a command is missing\n\n{OVERVIEW}", 2)
    command, rest = arguments[0], arguments[1:]
    if command in ("-h", "--help"):
        print(OVERVIEW)
    elif command in HELP and ("-h" in rest or "--help" in rest):
        print(HELP[command])
    elif command in HELP:
        from hoptm_plugin.cli.jobs import with_settings

        with_settings(command, rest)
    elif command in PLAIN:
        PLAIN[command](rest)
    elif command in ("-V", "--version"):
        from importlib.metadata import version

        print(f"{PROGRAM} {version('hoptm-plugin')}")
    else:
        unknown = unknown_name(f"no command is called {command!r}", command, [*HELP, *PLAIN])
        fail(f"{unknown}\nSee {PROGRAM} --help", 2)
