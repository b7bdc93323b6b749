"""The one communicator of a scheduler process, over the ranks of SGLang's TP group."""

from __future__ import annotations

import atexit
import logging
import pkgutil
from typing import Any

import torch
import torch.distributed as dist

from .. import torch as ops
from ..bootstrap import from_torch
from ..communicator import Communicator
from ..epilogue import Epilogue
from ..errors import Disagreement, Error, Unsupported
from . import deployment, settings, tally
from .versions import Hook
from .watch import Watch

logger = logging.getLogger("mixcomm.sglang")


class Link:
    """The communicator, the TP group that it is for, and what was asked for."""

    def __init__(
        self,
        communicator: Communicator,
        tp_group: Any,
        asked: settings.Settings,
        exit_norm_left: str | None = None,
    ) -> None:
        """Local: wraps what was made together. exit_norm_left: why exits go without the next layer's norm."""
        self.communicator = communicator
        self.tp_group = tp_group
        self.asked = asked
        self.exit_norm_left = exit_norm_left
        self.dp = communicator.dp
        self.dp_rank = communicator.dp_rank
        self.number = ops.register(communicator)
        tp = communicator.tp > 1
        self.gather_partial = "all_reduce_all_gather" if tp else "all_gather"
        self.exit = "reduce_scatter_all_reduce" if tp else "reduce_scatter"
        self.watch: Watch | None = None
        self.served = False

    def run(
        self,
        op: str,
        input: torch.Tensor,
        out: torch.Tensor,
        rows: list[int],
        epilogue: Epilogue | None = None,
    ) -> None:
        """The operation; ``input`` and ``out`` may have any strides, which is this rank's own affair.

        epilogue: its tensors are contiguous; not while code is compiled.
        """
        input = input.contiguous()
        target = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
        if torch.compiler.is_compiling():
            getattr(ops, op)(self.number, input, rows, out=target)
        elif self.watch is None:
            self.communicator.run(op, input, rows, out=target, epilogue=epilogue)
        else:
            with self.watch.lock:  # the watch looks at the communicator from a thread of its own
                self.communicator.run(op, input, rows, out=target, epilogue=epilogue)
        if target is not out:
            out.copy_(target)

    def check(self) -> None:
        """Raises what the kernels have found."""
        if self.watch is None:
            self.communicator.check()
        else:
            self.watch.check()


_link: Link | None = None


def current() -> Link | None:
    """The link of this process; None: all is left to SGLang."""
    return _link


def replace(link: Link | None) -> None:
    """Sets it; for tests, which make their own."""
    global _link
    _link = link


def _applied(hooks: list[Hook]) -> None:
    """SGLang only logs a hook that it could not apply; half of them would be wrong sums."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    done = getattr(HookRegistry, "_patched", None)
    for hook in hooks:
        found = (
            hook.target in done
            if done is not None
            else hasattr(pkgutil.resolve_name(hook.target), "__wrapped__")
        )
        if not found:
            raise Unsupported(
                f"SGLang has not applied the hook on {hook.target} (its log says why, above); nothing "
                f"is fused without "
                "it. Another plug-in that replaces the same function must be left out (SGLANG_PLUGINS)"
            )


def _agree(group: Any, mine: tuple[object, ...]) -> None:
    """Collective over the group: raises on all ranks if they were started in different ways."""
    views: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(views, mine, group=group)
    for rank, view in enumerate(views):
        if view != views[0]:
            raise Disagreement(
                f"mixcomm.sglang: rank {rank} was started with {view}, rank 0 with {views[0]}; start "
                f"all alike"
            )


def _leave(asked: settings.Settings, reason: str, first: bool) -> None:
    if asked.strict:
        raise Unsupported(f"mixcomm.sglang: {reason}; unset {settings.STRICT} to run without fusion")
    if first:
        logger.warning("mixcomm: nothing is fused, SGLang runs as it is: %s", reason)


def make(server_args: Any, hooks: list[Hook], exit_norm_left: str | None = None) -> None:
    """Collective over SGLang's TP group, which was made just now: makes this process's link, or leaves it.

    exit_norm_left: why exits are left without the next layer's residual and norm, if they are.
    Raises where the server should not start: settings that cannot be read, ranks that were started
    differently, a rank that does not come, and with SGLANG_MIXED_COMM_STRICT=1 whatever keeps the deployment
    from being served.
    """
    global _link
    from sglang.srt.runtime_context import get_parallel

    if _link is not None:  # a draft worker in the same process
        return
    asked = settings.read()
    facts = deployment.read(server_args)
    parallel = get_parallel()
    reason = deployment.refusal(facts)
    if reason is not None:
        _leave(asked, reason, first=parallel.tp_rank == 0)
        return
    _applied(hooks)
    group = parallel.tp_group
    _agree(group.cpu_group, (asked, facts, exit_norm_left))
    on_cuda = facts.device == "cuda"
    try:
        communicator = Communicator(
            from_torch(group.cpu_group, asked.timeout),
            tp=facts.attn_tp,
            dp=facts.attn_dp,
            timeout=asked.timeout,
            backend="cuda" if on_cuda else "cpu",
            device=torch.cuda.current_device() if on_cuda else -1,
        )
    except Unsupported as error:  # all ranks are told the same
        _leave(asked, str(error), first=parallel.tp_rank == 0)
        return
    if communicator.rank != parallel.attn_dp_rank * facts.attn_tp + parallel.attn_tp_rank:
        raise Error(
            f"mixcomm.sglang: rank {communicator.rank} of the TP group is attention DP rank "
            f"{parallel.attn_dp_rank}, TP "
            f"rank {parallel.attn_tp_rank} of {facts.attn_tp}; it should be dp_rank * tp + tp_rank"
        )
    _link = Link(communicator, group, asked, exit_norm_left)
    _link.watch = Watch.start(communicator, group.cpu_group) if on_cuda else None
    atexit.register(_say_counts)
    if communicator.rank == 0:
        _say(facts, asked, _link)


def _say(facts: deployment.Deployment, asked: settings.Settings, link: Link) -> None:
    from .. import __version__

    logger.info(
        "mixcomm %s is on: attention TP %d x DP %d, backend %s, multicast off; fused: gathers into "
        "the FFN (%s), gathers of "
        "complete rows (all_gather), FFN exits with MAX_LEN and SUM_LEN padding (%s); up to %d "
        "bytes, timeout %g s%s%s",
        __version__,
        facts.attn_tp,
        facts.attn_dp,
        link.communicator.backend,
        link.gather_partial,
        link.exit,
        asked.max_bytes,
        asked.timeout,
        _norms_text(asked.norm, link.exit_norm_left),
        "; first calls of each kind are compared with SGLang's" if asked.check else "",
    )


def _norms_text(norms: settings.Norms, exit_left: str | None) -> str:
    parts = ["gathers"] if norms.gather else []
    if norms.exit:
        parts.append("exits" if exit_left is None else f"no exits ({exit_left})")
    return "; residual and norm in " + " and ".join(parts) if parts else ""


def _say_counts() -> None:
    if _link is not None and _link.communicator.rank == 0:
        logger.info("mixcomm: %s", tally.summary())


def before_output(*_: object, **__: object) -> None:
    """Before results leave the scheduler: raises what kernels have found, so no wrong token leaves."""
    if _link is None:
        return
    _link.check()
    if not _link.served:
        _link.served = True
        _say_counts()
