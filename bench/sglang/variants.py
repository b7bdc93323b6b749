"""The servers that are compared: which plug-in each loads, what it is told, and what memory each gets."""

from __future__ import annotations

# The servers that mixcomm runs in, and their values of SGLANG_MIXED_COMM_NORM, whatever its default is.
_NORM = {"mixcomm": "0", "norm": "1", "norm_gather": "gather", "norm_exit": "exit"}

STOCK = ("stock", "sum_len")
FUSED = tuple(_NORM)
ALL = (*STOCK, *FUSED)


def plugin(variant: str) -> str | None:
    """The folder with the plug-in that it may load."""
    return "mixcomm" if variant in FUSED else None if variant == "stock" else variant


def variables(variant: str) -> dict[str, str]:
    """What of the environment is the variant's own."""
    found = {"MIXCOMM_DISABLE": "multicast"}
    if variant not in FUSED:
        return found
    return found | {
        "SGLANG_USE_MIXED_COMM": "1",
        "SGLANG_MIXED_COMM_STRICT": "1",
        "SGLANG_MIXED_COMM_CHECK": "1",
        "SGLANG_MIXED_COMM_NORM": _NORM[variant],
    }


# Tokens of each DP rank for which a server has room, by how many servers are up at once. The kit's model of
# 48 layers, bf16, TP 4, takes up to 18.6 GiB of each GPU without them (weights 15.1, contexts and
# communication 1.4, graphs 0.7 to 1.4, prefill), and 48 KiB a token; so four fit into 78 GiB. The bench takes
# 32 requests of 384 tokens on two DP ranks.
TOKENS = {1: 65536, 2: 65536, 3: 32768, 4: 8192}


def memory(servers: int, tokens: int | None) -> list[str]:
    """SGLang's options for the memory of each of so many servers.

    mem-fraction-static is of what is free when the server comes, and what it leaves need not be free when
    others come at once. So with more than two the tokens are the limit.
    """
    fraction = "0.5" if servers <= 2 else "0.95"
    most = tokens or TOKENS.get(servers, TOKENS[4])
    return ["--mem-fraction-static", fraction, "--max-total-tokens", str(most)]
