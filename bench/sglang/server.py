"""One server of SGLang: begun, asked, put to sleep while another one is measured, and ended."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import random
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.request

from system import end_group, group


class Server:
    """A process that leads a session, and its interface."""

    def __init__(
        self, variant: str, model: str, port: int, arguments: str, env: dict[str, str], log: pathlib.Path
    ) -> None:
        """Begins it. arguments: of sglang.launch_server, as a shell would have them."""
        self.variant, self.model, self.port, self.env, self.log = variant, model, port, env, log
        self.begun = time.monotonic()
        self.command = [sys.executable, "-m", "sglang.launch_server", "--model-path", model]
        self.command += [*shlex.split(arguments), "--port", str(port)]
        with open(log, "w") as file:
            self.process = subprocess.Popen(
                self.command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )

    def text(self) -> str:
        """What it has written."""
        return self.log.read_text(errors="replace")

    def failed(self) -> bool:
        """Whether it has ended, or is about to."""
        text = self.text()
        return (
            self.process.poll() is not None
            or "Received sigquit" in text
            or "Scheduler hit an exception" in text
        )

    def wait_for(self, mark: str, limit: float) -> None:
        """Until `mark` is in its log, it fails, or `limit` seconds are over."""
        until = time.monotonic() + limit
        while mark not in self.text() and not self.failed() and time.monotonic() < until:
            time.sleep(0.5)

    def wait_up(self, limit: float) -> float:
        """Until /health answers; how many seconds it took since it was begun. Raises if it does not come."""
        until = time.monotonic() + limit
        while time.monotonic() < until and not self.failed():
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2):
                    return time.monotonic() - self.begun
            except OSError:
                time.sleep(0.5)
        text = self.text()
        at = text.find("Traceback")
        why = text[at : at + 3000] if at >= 0 else text[-3000:]
        raise RuntimeError(f"{self.variant} is not up after {time.monotonic() - self.begun:.0f} s: {why}")

    def post(self, path: str, body: dict, limit: float = 60) -> bytes:
        """One request; the bytes of the answer."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=limit) as answer:
            return answer.read()

    def generate(self, body: dict, limit: float = 60) -> object:
        """One request to SGLang's own interface."""
        return json.loads(self.post("/generate", body, limit))

    def load(self, requests: int, tokens: int) -> list[threading.Thread]:
        """That many long requests at once; what becomes of them does not matter."""

        def one(seed: int) -> None:
            rng = random.Random(seed)
            body = {
                "input_ids": [rng.randrange(1000, 150000) for _ in range(64)],
                "sampling_params": {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True},
            }
            with contextlib.suppress(OSError, ValueError):
                self.generate(body, 90)

        threads = [threading.Thread(target=one, args=(seed,), daemon=True) for seed in range(requests)]
        for thread in threads:
            thread.start()
        return threads

    def _signal(self, number: signal.Signals) -> None:
        for pid in group(self.process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, number)

    @contextlib.contextmanager
    def awake(self):
        """Lets it run; afterwards all of its processes are stopped again."""
        self._signal(signal.SIGCONT)
        try:
            yield self
        finally:
            self.sleep()

    def sleep(self) -> None:
        """Stops its processes, which keep their memory and take no processor."""
        self._signal(signal.SIGSTOP)

    def end(self) -> None:
        """Ends all of its processes."""
        self._signal(signal.SIGCONT)
        end_group(self.process)
