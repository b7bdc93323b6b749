#!/usr/bin/env python3
"""SGLang's real server, stock and on mixcomm, in turns on the GPUs of one host: inter-token latency and more.

For machines without a network: SGLang 0.5.17 comes as a folder to carry (KIT: install.sh, check.sh, env.sh),
mixcomm as a wheel. Each stage has its own limit, writes its results at once, and does not keep the next one
from running:

  install    unpacks both; checks imports and builds SGLang's JIT kernels (about a minute)
  limit      from how many bytes on two NCCL calls are as quick as one of mixcomm's (--limit)
  servers    one for each of --variants, all of them up at once: stock, sum_len (stock with SUM_LEN padding in
             decode graphs), mixcomm (without norms in operations), norm (SGLANG_MIXED_COMM_NORM=1),
             norm_gather and norm_exit (one of the two); the processes of all but the one that is measured are
             stopped (SIGSTOP), so they take neither processors nor GPUs. Four fit into 78 GiB
  greedy     tokens of 32 prompts, compared between servers
  problems   500 word problems over HTTP, how many are solved (--problems FILE)
  rounds     in each, SGLang's own bench client at each concurrency, one server after the other
  trace      a profile of decode steps (--trace)
  kill       a rank of mixcomm's server is killed under load (--kill)

  itl.py --kit KIT --wheel WHEEL --out OUT --variants stock,mixcomm --rounds 3 --trace --kill
  itl.py --kit KIT --wheel WHEEL --out OUT --variants stock,mixcomm,norm,norm_gather --rounds 2
  itl.py --kit KIT --wheel WHEEL --out OUT --model models/tiny-qwen3_5-moe --rounds 0 \\
         --problems models/tiny-qwen3_5-moe/eval.jsonl --server-args "--load-format auto"
  itl.py --merge OUT1/runs.json OUT2/runs.json --out OUT

What is left in OUT: runs.json (each measurement), sglang-itl.json (medians of them), summary.txt, server
logs. NVLink multicast is never used: the kit's guard and its variables forbid it, and the plug-in asks for
none.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
import zipfile

from client import BenchClient
from decode_step import cut, sum_up
from figures import compare_tokens, figures
from problems import solve
from server import Server
from system import alive, card, end_group, group, title
from variants import ALL, FUSED, TOKENS, memory, plugin, variables

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
        folder = plugin(variant)
        given = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "EXTRA_PYTHONPATH")}
        if folder:
            given["EXTRA_PYTHONPATH"] = str(self.work / folder)
        text = subprocess.run(
            ["bash", "-c", "set -a; . ./env.sh; env -0"],
            cwd=self.kit,
            env=given,
            capture_output=True,
            check=True,
        ).stdout.decode()
        found = dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)
        for name in ("SGLANG_PLUGINS", "SGLKIT_PLUGIN", "SGLANG_USE_MIXED_COMM", "SGLANG_MIXED_COMM_NORM"):
            found.pop(name, None)
        found |= {"SGLKIT_PLUGIN": "1"} if folder else {"SGLANG_PLUGINS": "__none__"}
        # Servers that come at once have taken different parts of each GPU at a time, which SGLang refuses.
        found["SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK"] = "0"
        found.setdefault("SGLANG_MIXED_COMM_TIMEOUT", "120")
        return found | variables(variant)

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

    def pack(self) -> None:
        """SGLang's JIT kernels, for the kit's folder: with them, the next install is quicker."""
        self.run(["bash", "./check.sh", "--save-jit"], "save_jit.txt", 40, cwd=self.kit)
        shutil.copy(self.kit / "jit.tar.xz", self.out / "jit.tar.xz")

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

    # -- servers

    def servers(self) -> None:
        """Begins all servers, does with them what was asked for, and ends them."""
        o = self.options
        begun: list[Server] = []
        up: list[Server] = []
        client = (
            BenchClient({**self.environment("stock"), "SGLANG_PLUGINS": "__none__"}) if o.rounds else None
        )
        try:
            for number, variant in enumerate(o.variants):
                begun.append(self.begin(number, variant))
            for server in begun:
                self.stage(f"{server.variant} up", 20, self.wait_up, server, up)
            killed = next((server for server in up if server.variant in FUSED), None)
            for server in sorted(up, key=lambda one: one.variant != "stock"):
                with server.awake():
                    if not o.model:
                        self.stage(f"{server.variant} greedy", 15, self.greedy, server)
                    if o.problems:
                        self.stage(f"{server.variant} problems", 15, self.problems, server)
            for turn in range(o.rounds):
                for server in up:
                    for concurrency in o.concurrency:
                        name = f"{server.variant} {turn} at {concurrency}"
                        with server.awake():
                            self.stage(name, 15, self.bench, client, server, turn, concurrency)
            for server in up:
                if o.trace:
                    with server.awake():
                        self.stage(f"{server.variant} trace", 35, self.trace, server)
            for server in up:
                if o.kill and server is killed:
                    with server.awake():
                        self.stage(f"{server.variant} kill", 45, self.kill, server)
        finally:
            if client:
                client.end()
            for server in begun:
                server.end()
                lines = [line for line in server.text().splitlines() if "mixcomm" in line]
                lines = [line[:400] for line in lines if "Available" not in line]
                self.notes.setdefault("log_lines", {})[server.variant] = lines[:60]
            self.save()

    def begin(self, number: int, variant: str) -> Server:
        """Begins a server; in turn, waits until it has its memory, so that the next one sees what is left."""
        o, env = self.options, self.environment(variant)
        arguments = f"{env['COMMON']} --tp {o.tp} --dp {o.dp} --enable-dp-attention"
        arguments += " " + shlex.join(memory(len(o.variants), o.max_total_tokens))
        arguments += f" --cuda-graph-max-bs-decode 32 --max-running-requests 128 {o.server_args}"
        model = o.model or f"{env['MODELS']}/model{o.layers}"
        log = self.out / f"server_{variant}.log"
        server = Server(variant, model, o.port - 3000 * number, arguments, env, log)
        self.notes.setdefault("server", shlex.join(server.command))
        if o.begin == "in-turn":
            server.wait_for("Memory pool end", min(o.up_seconds, max(self.left() - 20, 5)))
        return server

    def wait_up(self, server: Server, up: list[Server]) -> None:
        """Until it answers; then it sleeps."""
        took = server.wait_up(min(self.options.up_seconds, self.left() - 10))
        self.say(f"{server.variant} up {took:.0f} s after it was begun")
        server.sleep()
        up.append(server)

    def greedy(self, server: Server) -> None:
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
        alone = [tokens([server.generate({"input_ids": prompt, **more})])[0] for prompt in prompts]
        together = tokens(server.generate({"input_ids": prompts, **more}))
        found = {"alone": alone, "together": together}
        (self.out / f"greedy_{server.variant}.json").write_text(json.dumps(found))
        file = self.out / "greedy_stock.json"
        if server.variant != "stock" and file.exists():
            stock = json.loads(file.read_text())
            compared = {k: compare_tokens(stock[k], found[k]) for k in found}
            self.notes.setdefault("greedy", {})[server.variant] = compared
            self.say(f"greedy against stock: {json.dumps(compared)[:600]}")

    def problems(self, server: Server) -> None:
        """How many word problems are solved."""
        found = solve(server, pathlib.Path(self.options.problems))
        (self.out / f"problems_{server.variant}.json").write_text(json.dumps(found))
        right = sum(one["right"] for one in found)
        known = self.notes.setdefault("problems", {})
        known[server.variant] = {"solved": right, "of": len(found)}
        stock = self.out / "problems_stock.json"
        if server.variant != "stock" and stock.exists():
            pairs = zip(json.loads(stock.read_text()), found, strict=True)
            known[server.variant]["same_text_as_stock"] = sum(a["text"] == b["text"] for a, b in pairs)
        self.say(f"{server.variant}: {known[server.variant]}")

    def bench(self, client: BenchClient, server: Server, turn: int, concurrency: int) -> None:
        """SGLang's own client."""
        tag = f"{server.variant}_{turn}_c{concurrency}"
        results = self.out / f"bench_{tag}.jsonl"
        results.unlink(missing_ok=True)
        arguments = f"--backend sglang --host 127.0.0.1 --port {server.port} --model {server.model}"
        arguments += " --dataset-name random-ids --tokenize-prompt --random-range-ratio 1 --seed 1"
        arguments += f" --num-prompts {self.options.prompts} --random-input-len 256 --random-output-len 128"
        arguments += f" --max-concurrency {concurrency} --warmup-requests 8 --disable-tqdm"
        self.notes.setdefault("client", f"python3 -m sglang.benchmark.serving {arguments}")
        argv = [*shlex.split(arguments), "--output-file", str(results)]
        client.run(argv, self.out / f"bench_{tag}.txt", min(100, max(self.left(), 5)))
        got = json.loads(results.read_text().strip().splitlines()[-1])
        results.unlink()
        kept = {k: v for k, v in got.items() if k.startswith(("median_", "mean_", "p99_", "std_"))}
        kept |= {k: got[k] for k in ("completed", "duration", "output_throughput")}
        self.runs.append({"turn": turn, "variant": server.variant, "concurrency": concurrency, **kept})
        self.say(
            f"{tag}: median ITL {got['median_itl_ms']:.3f} ms, median TTFT {got['median_ttft_ms']:.1f} ms"
        )

    def trace(self, server: Server) -> None:
        """The profiler of SGLang, for some decode steps at concurrency 8, summed up."""
        folder = self.out / f"trace_{server.variant}"
        folder.mkdir(exist_ok=True)
        threads = server.load(8, 1500)
        time.sleep(3)
        body = {"output_dir": str(folder), "num_steps": 6, "activities": ["GPU"]}
        server.post("/start_profile", body, 30)
        begin = time.monotonic()
        while len(list(folder.glob("*.gz"))) < self.options.tp and time.monotonic() - begin < 25:
            time.sleep(0.5)
        time.sleep(1)
        for thread in threads:
            thread.join(30)
        found = {}
        for path in sorted(folder.glob("*.gz")):
            found[path.name] = sum_up(path, 6)
        self.notes.setdefault("trace", {})[server.variant] = found
        for path in sorted(folder.glob("*.gz"))[:1]:
            cut(path, self.out / f"step_{server.variant}.json.gz", 6)
        shutil.rmtree(folder, ignore_errors=True)
        for name, one in found.items():
            self.say(f"trace {name}: {json.dumps(one)[:500]}")

    def kill(self, server: Server) -> None:
        """One scheduler is killed while requests run: the server ends, with an error, and does not hang."""
        process, log = server.process, server.log
        server.load(8, 4000)
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
        (self.out / "kill.log").write_text(text[-20000:])
        self.say(f"server gone after {gone} s, the other ranks after {others_gone} s; {lines[:3]}")

    def limit(self) -> None:
        """Where two NCCL calls take as long as one of mixcomm's."""
        script = pathlib.Path(__file__).with_name("limit.py")
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
        "--variants", default="stock,mixcomm", help=f"servers, in the order of turns: {', '.join(ALL)}"
    )
    parser.add_argument(
        "--begin",
        choices=("in-turn", "at-once"),
        help="each when the one before has its memory, 70 s later (so are two), or all at once (so are more)",
    )
    parser.add_argument(
        "--max-total-tokens",
        type=int,
        help="tokens that a server has room for, of each DP rank; by itself as many as fit beside the others",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each server")
    parser.add_argument("--concurrency", default="2,8,32")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--layers", type=int, default=48, choices=(8, 48))
    parser.add_argument("--model", help="a checkpoint, instead of the kit's model with --layers layers")
    parser.add_argument("--problems", help='a JSON object {"question", "answer"} a line, to be solved')
    parser.add_argument("--tp", type=int, default=4)
    parser.add_argument("--dp", type=int, default=2)
    parser.add_argument("--server-args", default="--enable-dp-lm-head", help="more options, of all servers")
    parser.add_argument(
        "--port", type=int, default=31004, help="the first server's; the others' are 3000 lower each"
    )
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
    found.variants = [variant for variant in found.variants.split(",") if variant]
    unknown = set(found.variants) - set(ALL)
    if unknown:
        parser.error(f"--variants has {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
    if len(set(found.variants)) != len(found.variants):
        parser.error(f"--variants has one of {', '.join(found.variants)} twice; --rounds measures each again")
    most = max(TOKENS)
    if len(found.variants) > most and found.max_total_tokens is None:
        parser.error(
            f"--variants has {len(found.variants)} servers, and {most} of the kit's model fit into 78 GiB; "
            "measure them in two calls, or give --max-total-tokens where they are smaller"
        )
    found.begin = found.begin or ("in-turn" if len(found.variants) <= 2 else "at-once")
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
    if asked.variants:
        driver.stage("servers", 60, driver.servers)
    if not (driver.kit / "jit.tar.xz").exists():
        driver.stage("pack", 30, driver.pack)
    driver.save()
    summary = json.dumps(
        {
            "figures": figures([driver.out / "runs.json"]),
            "stages": driver.stages,
            "notes": {
                k: driver.notes[k]
                for k in ("greedy", "problems", "kill", "limit", "trace")
                if k in driver.notes
            },
        },
        indent=1,
    )
    (driver.out / "summary.txt").write_text(summary)
    print(summary[-9000:])
    return 0 if all(not stage.get("problem") and not stage.get("skipped") for stage in driver.stages) else 1


if __name__ == "__main__":
    sys.exit(main())
