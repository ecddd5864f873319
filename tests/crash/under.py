"""Runs a program with crash points: `python -m tests.crash.under -m controlplane serve` (see `points`)."""

from __future__ import annotations

import os
import runpy
import sys

from tests.crash import points


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] != "-m":
        raise SystemExit("usage: python -m tests.crash.under -m MODULE [ARGUMENT ...]")
    points.obey(dict(os.environ))
    module, sys.argv = sys.argv[2], sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
