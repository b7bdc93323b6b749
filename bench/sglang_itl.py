#!/usr/bin/env python3
"""SGLang's real server, stock and on mixcomm, in turns on the GPUs of one host: inter-token latency and more.

For machines without a network: SGLang 0.5.17 comes as a folder to carry (KIT: install.sh, check.sh, env.sh),
mixcomm as a wheel. Each stage has its own limit, writes its results at once, and does not keep the next one
from running:

  install    unpacks both; checks imports and builds SGLang's JIT kernels (about a minute)
  server     one for each of --turns: stock, mixcomm, sum_len (stock with SUM_LEN padding in decode graphs);
             greedy tokens of 32 prompts, then SGLang's own bench client at each concurrency; with --trace a
             profile of decode steps; with --kill a rank of the last server is killed under load
  limit      from how many bytes on two NCCL calls are as quick as one of mixcomm's (--limit)

  sglang_itl.py --kit KIT --wheel WHEEL --out OUT --turns stock,mixcomm --trace --kill
  sglang_itl.py --merge OUT1/runs.json OUT2/runs.json --out OUT

What is left in OUT: runs.json (each measurement), sglang-itl.json (medians of them), summary.txt, server
logs. NVLink multicast is never used: the kit's guard and its variables forbid it, and the plug-in asks for
none.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import gzip
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
import zipfile

BEGIN = time.monotonic()
SUM_LEN_PLUGIN = """
def activate():
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    def mode(original, cls):
        return cls.SUM_LEN

    HookRegistry.register(
        "sglang.srt.layers.dp_attention.DpPaddingMode.get_default_mode_in_cuda_graph", mode, HookType.AROUND
    )
"""
COMMUNICATION = (
    "nccl",
    "cross_device_reduce",
    "mixcomm",
    "allreduce",
    "all_reduce",
    "allgather",
    "all_gather",
)


class Driver:
    """What was asked for, the environment of the kit, and what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Makes the folder for results."""
        self.options = options
        self.out = pathlib.Path(options.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.kit = pathlib.Path(options.kit).resolve()
        self.work = pathlib.Path(options.work)
        self.runs: list[dict] = []
        self.notes: dict[str, object] = {}
        self.stages: list[dict] = []

    # -- bookkeeping

    def left(self) -> float:
        """Seconds until the limit of the whole."""
        return self.options.seconds - (time.monotonic() - BEGIN)

    def say(self, text: str) -> None:
        """A line with the time, on the screen and in driver.log."""
        line = f"[{time.monotonic() - BEGIN:6.1f} s] {text}"
        print(line, flush=True)
        with open(self.out / "driver.log", "a") as log:
            log.write(line + "\n")

    def save(self) -> None:
        """Writes all that is known by now."""
        (self.out / "runs.json").write_text(
            json.dumps(
                {"card": card(), "command": shlex.join(sys.argv), "runs": self.runs, "notes": self.notes},
                indent=1,
            )
        )
        (self.out / "sglang-itl.json").write_text(json.dumps(figures([self.out / "runs.json"]), indent=1))

    def stage(self, name: str, least_s: float, action, *arguments) -> object:
        """Runs one stage; what it throws is written down, and the next one runs."""
        if self.left() < least_s:
            self.say(f"{name}: skipped, {self.left():.0f} s are left and it takes {least_s:.0f}")
            self.stages.append({"stage": name, "skipped": True})
            return None
        self.say(f"{name}: begins")
        begin, result, problem = time.monotonic(), None, None
        try:
            result = action(*arguments)
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            (self.out / f"problem_{name.replace(' ', '_')}.txt").write_text(traceback.format_exc())
        took = time.monotonic() - begin
        self.say(f"{name}: {'FAILED, ' + problem[:400] if problem else 'done'} after {took:.1f} s")
        self.stages.append({"stage": name, "problem": problem, "seconds": round(took, 1)})
        self.notes["stages"] = self.stages
        self.save()
        return result

    def run(self, command: list[str], log: str, limit: float, **more) -> str:
        """A command with a limit of its own; its output, which lies in OUT as well. Raises if it fails."""
        path = self.out / log
        with open(path, "w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **more
            )
            try:
                rc = process.wait(min(limit, max(self.left(), 5)))
            except subprocess.TimeoutExpired:
                end_group(process)
                raise RuntimeError(f"{command[0]} ran past {limit:.0f} s; see {log}") from None
        text = path.read_text(errors="replace")
        if rc != 0:
            raise RuntimeError(f"{shlex.join(command)[:120]} gave {rc}: ...{text[-600:]}")
        return text

    # -- set-up

    def environment(self, variant: str) -> dict[str, str]:
        """The kit's variables, and those of the variant: which plug-in may load."""
        paths = {"stock": "", "mixcomm": str(self.work / "mixcomm"), "sum_len": str(self.work / "sum_len")}
        given = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EXTRA_PYTHONPATH")}
        if paths[variant]:
            given["EXTRA_PYTHONPATH"] = paths[variant]
        text = subprocess.run(
            ["bash", "-c", "set -a; . ./env.sh; env -0"],
            cwd=self.kit,
            env=given,
            capture_output=True,
            check=True,
        ).stdout.decode()
        found = dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
        for name in ("SGLANG_PLUGINS", "SGLKIT_PLUGIN", "SGLANG_USE_MIXED_COMM"):
            found.pop(name, None)
        if variant == "stock":
            found["SGLANG_PLUGINS"] = "__none__"
        else:
            found["SGLKIT_PLUGIN"] = "1"
        if variant == "mixcomm":
            found |= {
                "SGLANG_USE_MIXED_COMM": "1",
                "SGLANG_MIXED_COMM_STRICT": "1",
                "SGLANG_MIXED_COMM_CHECK": "1",
            }
            found.setdefault("SGLANG_MIXED_COMM_TIMEOUT", "60")
        found["MIXCOMM_DISABLE"] = "multicast"
        return found

    def install(self) -> None:
        """Unpacks the kit and the wheel, and writes the plug-in of the SUM_LEN variant."""
        target = self.work / "mixcomm"
        shutil.rmtree(target, ignore_errors=True)
        with zipfile.ZipFile(
            self.options.wheel
        ) as wheel:  # as pip does with --target, which need not be there
            wheel.extractall(target)
        folder = self.work / "sum_len"
        (folder / "sglang_sum_len-0.dist-info").mkdir(parents=True, exist_ok=True)
        (folder / "sglang_sum_len.py").write_text(SUM_LEN_PLUGIN)
        (folder / "sglang_sum_len-0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: sglang-sum-len\nVersion: 0\n"
        )
        (folder / "sglang_sum_len-0.dist-info" / "entry_points.txt").write_text(
            "[sglang.srt.plugins]\nsum_len = sglang_sum_len:activate\n"
        )
        if self.options.skip_install:
            return
        self.run(["bash", "./install.sh"], "install_kit.txt", 90, cwd=self.kit)
        text = self.run(["bash", "./check.sh"], "check_kit.txt", 200, cwd=self.kit)
        self.say("kit: " + text.strip().splitlines()[-1])
        if not (self.kit / "jit.tar.xz").exists():
            try:
                self.run(["bash", "./check.sh", "--save-jit"], "save_jit.txt", 40, cwd=self.kit)
                shutil.copy(self.kit / "jit.tar.xz", self.out / "jit.tar.xz")
            except Exception as error:
                self.say(f"the JIT kernels could not be packed: {error}")

    def imports(self) -> None:
        """The wheel loads here, finds the GPUs, and its entry point is seen."""
        code = (
            "import importlib.metadata as m, mixcomm, torch; "
            "print(mixcomm.info(), torch.__version__, torch.cuda.device_count(),"
            " [e.name for e in m.entry_points(group='sglang.srt.plugins')])"
        )
        text = self.run(
            [sys.executable, "-c", code],
            "mixcomm_info.txt",
            60,
            env=self.environment("mixcomm"),
            cwd=str(self.work),
        )
        self.say("mixcomm: " + text.strip().splitlines()[-1])

    # -- one server

    def server(self, number: int, variant: str, last: bool) -> None:
        """Starts a server, does with it what was asked for, and stops it."""
        o = self.options
        tag = f"{number}_{variant}"
        env, log = self.environment(variant), self.out / f"server_{tag}.log"
        command = [
            sys.executable,
            "-m",
            "sglang.launch_server",
            "--model-path",
            f"{env['MODELS']}/model{o.layers}",
        ]
        command += shlex.split(env["COMMON"])
        command += shlex.split(f"--tp {o.tp} --dp {o.dp} --enable-dp-attention --mem-fraction-static 0.6")
        command += shlex.split("--cuda-graph-max-bs-decode 32 --max-running-requests 128")
        command += ["--port", str(o.port), *shlex.split(o.server_args)]
        self.notes.setdefault("server", shlex.join(command))
        with open(log, "w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        try:
            self.wait_up(process, log, min(o.up_seconds, self.left() - 20))
            self.stage(f"{tag} greedy", 25, self.greedy, tag, variant)
            for concurrency in o.concurrency:
                self.stage(f"{tag} bench {concurrency}", 35, self.bench, tag, variant, concurrency, env)
            if o.trace and variant not in self.notes.get("trace", {}):
                self.stage(f"{tag} trace", 35, self.trace, tag, variant)
            if o.kill and last and variant == "mixcomm":
                self.stage(f"{tag} kill", 45, self.kill, tag, process, log)
        finally:
            end_group(process)
            lines = [
                line
                for line in log.read_text(errors="replace").splitlines()
                if "mixcomm" in line and "Available" not in line
            ]
            self.notes.setdefault("log_lines", {})[tag] = [line[:400] for line in lines[:60]]
            self.save()
            wait_for_free_gpus(20)

    def wait_up(self, process: subprocess.Popen, log: pathlib.Path, limit: float) -> None:
        """Until /health answers."""
        begin = time.monotonic()
        while time.monotonic() - begin < limit:
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.options.port}/health", timeout=2):
                    self.say(f"server up after {time.monotonic() - begin:.0f} s")
                    return
            except OSError:
                time.sleep(0.5)
            text = log.read_text(errors="replace")
            if "Received sigquit" in text or "Scheduler hit an exception" in text:
                break
        text = log.read_text(errors="replace")
        at = text.find("Traceback")
        why = text[at : at + 3000] if at >= 0 else text[-3000:]
        raise RuntimeError(f"the server is not up after {time.monotonic() - begin:.0f} s: {why}")

    def ask(self, body: dict, limit: float = 60) -> object:
        """One request to the server's own interface."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.options.port}/generate",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=limit) as answer:
            return json.load(answer)

    def greedy(self, tag: str, variant: str) -> None:
        """32 fixed prompts, 16 tokens each at temperature 0: each alone, and all at once."""
        rng = random.Random(7)
        prompts = [[rng.randrange(1000, 150000) for _ in range(rng.randrange(4, 65))] for _ in range(32)]
        sampling = {"temperature": 0, "max_new_tokens": 16, "ignore_eos": True}

        def tokens(answers: list) -> list:
            return [
                [
                    [entry[1], entry[0], [[t[1], t[0]] for t in top]]
                    for entry, top in zip(
                        one["meta_info"]["output_token_logprobs"],
                        one["meta_info"]["output_top_logprobs"],
                        strict=True,
                    )
                ]
                for one in answers
            ]

        more = {"sampling_params": sampling, "return_logprob": True, "top_logprobs_num": 2}
        alone = [tokens([self.ask({"input_ids": prompt, **more})])[0] for prompt in prompts]
        together = tokens(self.ask({"input_ids": prompts, **more}))
        found = {"alone": alone, "together": together}
        (self.out / f"greedy_{tag}.json").write_text(json.dumps(found))
        known = self.notes.setdefault("greedy_files", {})
        known.setdefault(variant, f"greedy_{tag}.json")
        if variant != "stock" and "stock" in known:
            stock = json.loads((self.out / known["stock"]).read_text())
            self.notes.setdefault("greedy", {})[tag] = {k: compare_tokens(stock[k], found[k]) for k in found}
            self.say(f"greedy against stock: {json.dumps(self.notes['greedy'][tag])[:600]}")

    def bench(self, tag: str, variant: str, concurrency: int, env: dict[str, str]) -> None:
        """SGLang's own client."""
        o = self.options
        results = self.out / f"bench_{tag}_c{concurrency}.jsonl"
        results.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-m",
            "sglang.benchmark.serving",
            "--backend",
            "sglang",
            "--host",
            "127.0.0.1",
        ]
        command += [
            "--port",
            str(o.port),
            "--model",
            f"{env['MODELS']}/model{o.layers}",
            "--dataset-name",
            "random-ids",
        ]
        command += ["--tokenize-prompt", "--num-prompts", str(o.prompts), "--random-input-len", "256"]
        command += [
            "--random-output-len",
            "128",
            "--random-range-ratio",
            "1",
            "--max-concurrency",
            str(concurrency),
        ]
        command += ["--seed", "1", "--warmup-requests", "8", "--disable-tqdm", "--output-file", str(results)]
        self.notes.setdefault("client", shlex.join(command))
        client = {**env, "SGLANG_PLUGINS": "__none__"}
        client.pop("SGLANG_USE_MIXED_COMM", None)
        self.run(command, f"bench_{tag}_c{concurrency}.txt", 100, env=client)
        got = json.loads(results.read_text().strip().splitlines()[-1])
        kept = {
            k: got[k]
            for k in got
            if k.startswith(("median_", "mean_", "p99_", "std_"))
            or k in ("completed", "duration", "output_throughput")
        }
        self.runs.append({"tag": tag, "variant": variant, "concurrency": concurrency, **kept})
        self.say(
            f"{tag} at {concurrency}: median ITL {got['median_itl_ms']:.3f} ms, "
            f"median TTFT {got['median_ttft_ms']:.1f} ms"
        )

    # -- under load

    def load(self, requests: int, tokens: int) -> list[threading.Thread]:
        """That many endless requests; what becomes of them does not matter."""

        def one(seed: int) -> None:
            rng = random.Random(seed)
            body = {
                "input_ids": [rng.randrange(1000, 150000) for _ in range(64)],
                "sampling_params": {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True},
            }
            with contextlib.suppress(OSError, ValueError):
                self.ask(body, 90)

        threads = [threading.Thread(target=one, args=(seed,), daemon=True) for seed in range(requests)]
        for thread in threads:
            thread.start()
        return threads

    def trace(self, tag: str, variant: str) -> None:
        """The profiler of SGLang, for some decode steps at concurrency 8, summed up."""
        folder = self.out / f"trace_{tag}"
        folder.mkdir(exist_ok=True)
        threads = self.load(8, 1500)
        time.sleep(3)
        body = {"output_dir": str(folder), "num_steps": 6, "activities": ["GPU"]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.options.port}/start_profile",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()
        begin = time.monotonic()
        while len(list(folder.glob("*.gz"))) < self.options.tp and time.monotonic() - begin < 25:
            time.sleep(0.5)
        time.sleep(1)
        for thread in threads:
            thread.join(30)
        found = {}
        for path in sorted(folder.glob("*.gz")):
            found[path.name] = sum_up(path, 6)
        self.notes.setdefault("trace", {})[variant] = found
        for path in sorted(folder.glob("*.gz"))[:1]:
            cut(path, self.out / f"step_{variant}.json.gz", 6)
        shutil.rmtree(folder, ignore_errors=True)
        for name, one in found.items():
            self.say(f"trace {name}: {json.dumps(one)[:500]}")

    def kill(self, tag: str, process: subprocess.Popen, log: pathlib.Path) -> None:
        """One scheduler is killed while requests run: the server ends, with an error, and does not hang."""
        self.load(8, 4000)
        time.sleep(4)
        schedulers = [pid for pid in group(process.pid) if "scheduler" in title(pid)]
        if not schedulers:
            raise RuntimeError(f"no scheduler among {[(pid, title(pid)[:60]) for pid in group(process.pid)]}")
        victim = schedulers[-1]
        size = log.stat().st_size
        self.say(f"kills {victim}, {title(victim)[:60]}")
        begin = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        others = [pid for pid in schedulers if pid != victim]
        gone = others_gone = None
        while time.monotonic() - begin < 40 and (gone is None or others_gone is None):
            if gone is None and process.poll() is not None:
                gone = round(time.monotonic() - begin, 2)
            if others_gone is None and not any(alive(pid) for pid in others):
                others_gone = round(time.monotonic() - begin, 2)
            time.sleep(0.05)
        text = log.read_text(errors="replace")[size:]
        lines = [
            line[:300]
            for line in text.splitlines()
            if "mixcomm" in line or "exit" in line.lower() or "Error" in line
        ]
        self.notes["kill"] = {"server_gone_s": gone, "other_ranks_gone_s": others_gone, "lines": lines[:40]}
        (self.out / f"kill_{tag}.log").write_text(text[-20000:])
        self.say(f"server gone after {gone} s, the other ranks after {others_gone} s; {lines[:3]}")

    def limit(self) -> None:
        """Where two NCCL calls take as long as one of mixcomm's."""
        script = pathlib.Path(__file__).with_name("sglang_limit.py")
        env = {**self.environment("mixcomm"), "PYTHONPATH": str(self.work / "mixcomm")}
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node",
            str(self.options.tp),
            str(script),
        ]
        text = self.run([*command, "--tp", str(self.options.tp // self.options.dp)], "limit.txt", 75, env=env)
        rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        self.notes["limit"] = rows
        for row in rows:
            self.say(json.dumps(row))


# -- pieces


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


def compare_tokens(stock: list, other: list) -> dict:
    """How many outputs are the same, and of the first differences how close the two candidates were."""
    same = sum([t[0] for t in a] == [t[0] for t in b] for a, b in zip(stock, other, strict=True))
    differences, apart = [], [0.0]
    for number, (a, b) in enumerate(zip(stock, other, strict=True)):
        for at, (x, y) in enumerate(zip(a, b, strict=True)):
            if x[0] != y[0]:
                top = x[2]
                gap = abs(top[0][1] - top[1][1]) if len(top) > 1 else None
                differences.append({"prompt": number, "token": at, "gap_of_stocks_two_best_logprobs": gap})
                break
            apart.append(abs(x[1] - y[1]))
    return {
        "identical": same,
        "of": len(stock),
        "first_differences": differences[:8],
        "largest_logprob_difference_before": max(apart),
    }


def events(path: pathlib.Path) -> list[dict]:
    """The kernels of a trace."""
    with gzip.open(path, "rt") as file:
        data = json.load(file)
    return [
        e
        for e in data["traceEvents"]
        if e.get("ph") == "X" and e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
    ]


def is_communication(name: str) -> bool:
    """Whether a kernel of that name communicates."""
    return any(part in name.lower() for part in COMMUNICATION)


def sum_up(path: pathlib.Path, steps: int) -> dict:
    """Time of all kernels and of those that communicate, per decode step, in microseconds."""
    total, communication, kernels = 0.0, 0.0, collections.Counter()
    number = collections.Counter()
    found = events(path)
    for event in found:
        total += event["dur"]
        if is_communication(event["name"]):
            communication += event["dur"]
            kernels[event["name"][:90]] += event["dur"]
            number[event["name"][:90]] += 1
    span = max((e["ts"] + e["dur"] for e in found), default=0) - min((e["ts"] for e in found), default=0)
    return {
        "steps": steps,
        "span_us_per_step": round(span / steps, 1),
        "kernels_us_per_step": round(total / steps, 1),
        "communication_us_per_step": round(communication / steps, 1),
        "communication": {name: [number[name], round(us / steps, 1)] for name, us in kernels.most_common(12)},
    }


def cut(path: pathlib.Path, target: pathlib.Path, steps: int) -> None:
    """One decode step of a trace, from its middle, as a small file for Perfetto."""
    found = sorted(events(path), key=lambda e: e["ts"])
    if not found:
        return
    first, last = found[0]["ts"], found[-1]["ts"] + found[-1]["dur"]
    step = (last - first) / steps
    kept = [e for e in found if first + 2 * step <= e["ts"] < first + 3.1 * step]
    slim = [{k: e[k] for k in ("ph", "cat", "name", "pid", "tid", "ts", "dur")} for e in kept]
    with gzip.open(target, "wt") as file:
        json.dump({"traceEvents": slim}, file)


def figures(files: list[pathlib.Path]) -> dict:
    """Medians over the runs of each variant, and how they compare."""
    runs, cards, commands = [], [], []
    for file in files:
        data = json.loads(pathlib.Path(file).read_text())
        runs += data["runs"]
        cards.append(data["card"])
        commands.append(data["command"])
    rows = []
    for concurrency in sorted({run["concurrency"] for run in runs}):
        row: dict[str, object] = {"concurrency": concurrency}
        for variant in ("stock", "mixcomm", "sum_len"):
            of = [run for run in runs if run["variant"] == variant and run["concurrency"] == concurrency]
            if of:
                itl = [run["median_itl_ms"] for run in of]
                row[f"{variant}_median_itl_ms"] = round(statistics.median(itl), 3)
                row[f"{variant}_runs_ms"] = [round(value, 3) for value in itl]
                row[f"{variant}_median_ttft_ms"] = round(
                    statistics.median(run["median_ttft_ms"] for run in of), 1
                )
        for base in ("stock", "sum_len"):
            if f"{base}_median_itl_ms" in row and "mixcomm_median_itl_ms" in row:
                row[f"mixcomm_to_{base}"] = round(
                    row["mixcomm_median_itl_ms"] / row[f"{base}_median_itl_ms"], 3
                )
        rows.append(row)
    return {
        "card": "; ".join(sorted(set(cards))),
        "command": " && ".join(dict.fromkeys(commands)),
        "rows": rows,
    }


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--kit", default=".", help="the folder that was carried (install.sh, check.sh, env.sh)"
    )
    parser.add_argument("--wheel", help="mixcomm's wheel")
    parser.add_argument("--out", default="sglang-out", help="where results go")
    parser.add_argument("--work", default="/tmp/sglang-itl", help="where mixcomm is installed")
    parser.add_argument(
        "--turns", default="stock,mixcomm", help="servers, one after the other: stock, mixcomm, sum_len"
    )
    parser.add_argument("--concurrency", default="2,8,32")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--layers", type=int, default=48, choices=(8, 48))
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--dp", type=int, default=2)
    parser.add_argument("--server-args", default="--enable-dp-lm-head", help="more options, of all servers")
    parser.add_argument("--port", type=int, default=31004)
    parser.add_argument(
        "--seconds", type=float, default=560, help="limit of the whole; stages that do not fit are skipped"
    )
    parser.add_argument("--up-seconds", type=float, default=200, help="limit until a server is up")
    parser.add_argument("--trace", action="store_true")
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--limit", action="store_true")
    parser.add_argument(
        "--skip-install", action="store_true", help="the kit was installed on this machine before"
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        metavar="RUNS",
        help="runs.json of several calls: writes sglang-itl.json, and that is all",
    )
    found = parser.parse_args()
    found.turns = [turn for turn in found.turns.split(",") if turn]
    unknown = set(found.turns) - {"stock", "mixcomm", "sum_len"}
    if unknown:
        parser.error(f"--turns has {', '.join(sorted(unknown))}; there are stock, mixcomm and sum_len")
    found.concurrency = [int(text) for text in found.concurrency.split(",")]
    if not found.merge and not found.wheel:
        parser.error("--wheel is needed: scripts/check-wheel FOLDER makes it")
    if found.wheel:
        found.wheel = str(pathlib.Path(found.wheel).resolve())
    return found


def main() -> int:
    """Runs the stages; 0 if all that was asked for ran."""
    asked = options()
    if asked.merge:
        folder = pathlib.Path(asked.out)
        folder.mkdir(parents=True, exist_ok=True)
        found = figures([pathlib.Path(file) for file in asked.merge])
        (folder / "sglang-itl.json").write_text(json.dumps(found, indent=1) + "\n")
        print(json.dumps(found, indent=1))
        return 0
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    driver = Driver(asked)
    driver.work.mkdir(parents=True, exist_ok=True)
    driver.say(f"{card()}; {os.cpu_count()} processors")
    driver.stage("install", 30, driver.install)
    driver.stage("imports", 10, driver.imports)
    if asked.limit:
        driver.stage("limit", 60, driver.limit)
    for number, variant in enumerate(asked.turns):
        driver.stage(
            f"server {number} {variant}", 120, driver.server, number, variant, number == len(asked.turns) - 1
        )
    driver.save()
    summary = json.dumps(
        {
            "figures": figures([driver.out / "runs.json"]),
            "stages": driver.stages,
            "notes": {k: driver.notes[k] for k in ("greedy", "kill", "limit", "trace") if k in driver.notes},
        },
        indent=1,
    )
    (driver.out / "summary.txt").write_text(summary)
    print(summary[-9000:])
    return 0 if all(not stage.get("problem") and not stage.get("skipped") for stage in driver.stages) else 1


if __name__ == "__main__":
    sys.exit(main())
