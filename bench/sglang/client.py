#!/usr/bin/env python3
"""SGLang's own bench client (sglang.benchmark.serving), kept running: its imports take half a minute.

Reads one line of JSON for each run from stdin, {"argv": [...], "log": FILE}, calls the client's main as if it
had been started with these arguments, and answers each with one line of JSON, {"problem": text or null}.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import traceback


class BenchClient:
    """A process of this file, from the side of who asks."""

    def __init__(self, env: dict[str, str]) -> None:
        """Starts it; it imports while others work."""
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, argv: list[str], log: pathlib.Path, limit: float) -> None:
        """One run. Raises if it fails, or takes longer than `limit` seconds; then the client has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(limit, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"argv": argv, "log": str(log)}) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not answer:
            raise RuntimeError(f"the bench client ended, or ran past {limit:.0f} s; see {log}")
        problem = json.loads(answer)["problem"]
        if problem:
            raise RuntimeError(f"the bench client failed: ...{problem[-600:]}; see {log}")

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


def main() -> int:
    """Serves runs until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    from sglang.benchmark import serving

    for line in sys.stdin:
        asked = json.loads(line)
        problem = None
        with open(asked["log"], "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            sys.argv = ["sglang.benchmark.serving", *asked["argv"]]
            try:
                serving.cli_main()
            except SystemExit as end:
                if end.code:
                    problem = f"exit {end.code}"
            except BaseException:
                problem = traceback.format_exc()
        answers.write(json.dumps({"problem": problem}) + "\n")
        answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
