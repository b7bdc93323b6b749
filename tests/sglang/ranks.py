"""Four processes of the real SGLang on the CPU, which run cases.py.

ranks.py TP DP OUT.json [VARIABLE=VALUE]...: with those variables, which switch the plug-in on.

SGLang is imported once, and the ranks are forked from it; each writes what its cases found to OUT.json.RANK.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import sys
import traceback

MODEL = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "torch_dtype": "bfloat16",
    "hidden_size": 64,
    "head_dim": 16,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "intermediate_size": 64,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "max_position_embeddings": 1024,
    "vocab_size": 256,
    "num_hidden_layers": 2,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "attention_bias": False,
}


def free_port() -> int:
    """A port of the loopback network that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _copy_rows(dst, src, dim, offset, sz, offset_src) -> None:
    """What SGLang's memcpy_triton does, for tensors on the CPU."""
    offset, sz = int(offset), int(sz)
    if offset_src:
        rows = min(sz, dst.shape[0], src.shape[0] - offset)
        dst[:rows].copy_(src[offset : offset + rows])
    else:
        rows = min(sz, src.shape[0], dst.shape[0] - offset)
        dst[offset : offset + rows].copy_(src[:rows])


def arguments(tp: int, dp: int, folder: pathlib.Path, **more: object) -> dict[str, object]:
    """SGLang's own, for attention TP x DP on the CPU."""
    import sglang

    attention = (
        {"attn_dp_size": dp}
        if sglang.__version__ != "0.5.17"
        else {"dp_size": dp, "enable_dp_attention": dp > 1}
    )
    return {
        "model_path": str(folder),
        "device": "cpu",
        "tp_size": tp * dp,
        "load_format": "dummy",
        "disable_custom_all_reduce": True,
        "skip_tokenizer_init": True,
        **attention,
        **more,
    }


def architectures(folder: pathlib.Path) -> list[str]:
    """Those of the model there."""
    return json.loads((folder / "config.json").read_text())["architectures"]


def set_up(rank: int, tp: int, dp: int, port: int, folder: pathlib.Path, **more: object) -> None:
    """What a scheduler of SGLang does before it loads a model: plug-ins, configuration, groups."""
    import sglang
    import torch
    from sglang.srt import runtime_context
    from sglang.srt.distributed import bootstrap, parallel_state
    from sglang.srt.layers import dp_attention
    from sglang.srt.plugins import load_plugins
    from sglang.srt.server_args import ServerArgs

    torch.set_num_threads(1)
    # SGLang's own branches for the CPU, which it takes by itself only beside its CPU kernels (no package).
    parallel_state._is_cpu = True
    load_plugins()
    server_args = ServerArgs(**arguments(tp, dp, folder, **more))
    meeting = {"backend": "gloo", "dist_init_method": f"tcp://127.0.0.1:{port}", "server_args": server_args}
    if sglang.__version__ == "0.5.17":
        from types import SimpleNamespace

        dp_attention.memcpy_triton = _copy_rows
        gloo_in_place_of_nccl(parallel_state.GroupCoordinator)
        runtime_context.publish(server_args, role="scheduler")
        bootstrap._init_parallel_groups(
            **meeting,
            model_config=SimpleNamespace(
                hidden_size=64,
                dtype=torch.bfloat16,
                hf_config=SimpleNamespace(architectures=architectures(folder)),
            ),
            gpu_id=0,
            tp_rank=rank,
            tp_size=tp * dp,
            pp_rank=0,
            pp_size=1,
            attn_dp_size=dp,
            attn_cp_size=1,
            moe_ep_size=1,
            moe_dp_size=1,
            dcp_size=1,
        )
    else:
        dp_attention.memcpy_func = dp_attention.memcpy_cpu
        ranks = runtime_context.SpawnRanks(world_rank=rank, gpu_id=0)
        runtime_context.publish(server_args, role="scheduler", ranks=ranks)
        bootstrap._init_parallel_groups(**meeting, gpu_id=0)


def gloo_in_place_of_nccl(coordinator: type) -> None:
    """0.5.17 has no collectives of host memory for its boundaries; these are what its own do on GPUs."""
    import torch.distributed as dist

    def reduce_scatter_tensor(self, output, input) -> None:
        sums = input.clone()
        dist.all_reduce(sums, group=self.device_group)
        output.copy_(sums.tensor_split(self.world_size)[self.rank_in_group])

    def all_gather_into_tensor(self, output, input) -> None:
        dist.all_gather(
            list(output.tensor_split(self.world_size)), input.contiguous(), group=self.device_group
        )

    coordinator.reduce_scatter_tensor = reduce_scatter_tensor
    coordinator.all_gather_into_tensor = all_gather_into_tensor


def rank_main(rank: int, tp: int, dp: int, port: int, out: str, folder: pathlib.Path) -> None:
    """One rank: all cases, in order."""
    import cases
    import torch

    try:
        set_up(rank, tp, dp, port, folder)
        torch.distributed.barrier()  # nobody leaves while others still make their groups
        found = cases.run(rank, tp, dp)
    except BaseException:
        found = {"set_up": {"error": traceback.format_exc()}}
    pathlib.Path(f"{out}.{rank}").write_text(json.dumps(found))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Forks the ranks, and waits for them."""
    tp, dp, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ.update(dict(pair.split("=", 1) for pair in sys.argv[4:]))
    # PyTorch's wheel brings NCCL along, which SGLang would take for GPUs.
    os.environ["SGLANG_NCCL_SO_PATH"] = "/nonexistent/libnccl.so"
    folder = pathlib.Path(out).parent / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(MODEL))
    import sglang.srt.distributed.bootstrap
    import sglang.srt.layers.logits_processor
    import sglang.srt.server_args  # noqa: F401

    port = free_port()
    pids = []
    for rank in range(tp * dp):
        pid = os.fork()
        if pid == 0:
            rank_main(rank, tp, dp, port, out, folder)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
