"""GPUs and processes, as the system shows them."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import time


def nvidia_smi(query: str) -> list[str]:
    """A line for each GPU, without units; none where it cannot be asked."""
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return text.strip().splitlines()


def card() -> str:
    """What nvidia-smi says of the GPUs."""
    lines = nvidia_smi("name,driver_version")
    return f"{len(lines)} x {lines[0]}" if lines else "unknown"


def wait_for_free_gpus(limit: float) -> None:
    """Until no process has memory on the GPUs, so that the next server finds it free."""
    begin = time.monotonic()
    while time.monotonic() - begin < limit:
        if all(int(used) < 3000 for used in nvidia_smi("memory.used") if used.isdigit()):
            return
        time.sleep(0.5)


def group(leader: int) -> list[int]:
    """The processes of a session, by their ids."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader:
                found.append(int(entry.name))
    return sorted(found)


def title(pid: int) -> str:
    """What a process calls itself."""
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def end_group(process: subprocess.Popen) -> None:
    """Ends a process that leads a session, and all of the session."""
    members = group(process.pid)
    for how, wait in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        for pid in members:
            try:
                os.kill(pid, how)
            except OSError:
                continue
        until = time.monotonic() + wait
        while any(alive(pid) for pid in members) and time.monotonic() < until:
            time.sleep(0.1)
    process.wait(10)
