"""The names of flashinfer.comm.mixed_comm, over mixcomm: change one import.

``from mixcomm.flashinfer import MixedCommHandler, MixedCommMode, MixedCommOp, run_mixed_comm``

Tensors may be on the CPU as well, float32 too, and world_size may be 1. docs/python.md says what differs.
"""

from __future__ import annotations

import enum
from typing import Any

import torch
import torch.distributed as dist

from . import _core
from . import bootstrap as _bootstrap
from .communicator import Communicator
from .errors import InvalidArgument, Unsupported


class MixedCommOp(enum.IntEnum):
    """The operations, with FlashInfer's values."""

    ALLREDUCE = 0
    ALLGATHER = 1
    REDUCESCATTER = 2
    ALLREDUCE_ALLGATHER = 3
    REDUCESCATTER_ALLREDUCE = 4


class MixedCommMode(enum.IntEnum):
    """The modes, with FlashInfer's values, and the algorithm that each one runs here.

    OPT_WAITS (few waits): one_shot. OPT_BYTES1 (few bytes): two_shot. _MC (multicast) runs as its _UC twin.
    NCCL_TP_DP: composed. NCCL_ONE: one collective of torch.distributed, to compare with. OPT_BYTES2 (between
    hosts) has no counterpart, and is not in valid_mode_list. AUTOTUNE: the algorithm that mixcomm chooses.
    """

    FUSED_OPT_WAITS_MC = 0
    FUSED_OPT_WAITS_UC = 1
    FUSED_OPT_BYTES1_MC = 2
    FUSED_OPT_BYTES1_UC = 3
    FUSED_OPT_BYTES2_MC = 4
    FUSED_OPT_BYTES2_UC = 5
    NCCL_ONE = 6
    NCCL_TP_DP = 7
    AUTOTUNE = 8


_OPERATIONS = {
    MixedCommOp.ALLREDUCE: "all_reduce",
    MixedCommOp.ALLGATHER: "all_gather",
    MixedCommOp.REDUCESCATTER: "reduce_scatter",
    MixedCommOp.ALLREDUCE_ALLGATHER: "all_reduce_all_gather",
    MixedCommOp.REDUCESCATTER_ALLREDUCE: "reduce_scatter_all_reduce",
}
_ALGORITHMS = {
    MixedCommMode.FUSED_OPT_WAITS_MC: "one_shot",
    MixedCommMode.FUSED_OPT_WAITS_UC: "one_shot",
    MixedCommMode.FUSED_OPT_BYTES1_MC: "two_shot",
    MixedCommMode.FUSED_OPT_BYTES1_UC: "two_shot",
    MixedCommMode.NCCL_TP_DP: "composed",
    MixedCommMode.AUTOTUNE: "auto",
}
_LARGEST_BLOCK = 512  # threads of any of our kernels
_SCATTERS = (MixedCommOp.REDUCESCATTER, MixedCommOp.REDUCESCATTER_ALLREDUCE)


def _groups(rank: int, groups: list[list[int]]) -> dist.ProcessGroup:
    """Collective over the default group: makes them all, and returns the one that this rank is in."""
    made = [dist.new_group(ranks) for ranks in groups]
    return next(group for group, ranks in zip(made, groups, strict=True) if rank in ranks)


def _sides(size: int, tp: int | None, dp: int | None, where: str) -> tuple[int, int]:
    """The TP and DP size of one level, as FlashInfer fills in what is None."""
    if tp is None and dp is None:
        return size, 1
    if tp is None:
        tp = size // dp  # type: ignore[operator]
    elif dp is None:
        dp = size // tp
    if tp * dp != size:  # type: ignore[operator]
        raise ValueError(f"{where}_tp_size {tp} x {where}_dp_size {dp} should be {where}_size {size}")
    return tp, dp  # type: ignore[return-value]


class ParallelInfo:
    """Who this rank is: sizes and ranks over one host, under FlashInfer's names."""

    def __init__(self, rank: int, size: int, tp: int, dp: int) -> None:
        """The grid of tp x dp ranks of one host; rank = dp_rank * tp + tp_rank."""
        self.world_rank = self.local_rank = rank
        self.world_size = self.local_size = size
        self.inter_rank = self.inter_tp_rank = self.inter_dp_rank = 0
        self.inter_size = self.inter_tp_size = self.inter_dp_size = 1
        self.tp_size = self.local_tp_size = tp
        self.dp_size = self.local_dp_size = dp
        self.tp_rank = self.local_tp_rank = rank % tp
        self.dp_rank = self.local_dp_rank = rank // tp
        self.use_tp = self.use_local_tp = tp > 1
        self.use_dp = dp > 1
        self.use_inter = self.use_inter_tp = False
        self.use_mixed = self.use_tp and self.use_dp


class MixedCommHandler:
    """A communicator under FlashInfer's name and signature.

    torch.distributed must be initialized: its default group is used once, to meet. Raises Unsupported for
    several hosts (inter_size > 1); what only FlashInfer's kernels have (block sizes, nvshmem, IBGDA) is
    accepted, and has no effect, grid_size is the most thread blocks of an operation (32 at most).

    tp_comm_group, dp_comm_group: process groups of this rank's TP and DP team where the grid has both, else
    None: the default group is the team. local_comm_group: None, there is one host. max_block_size_dict: for
    each op and fused mode the threads of our largest block, max_block_size if that is less.
    """

    def __init__(
        self,
        world_rank: int,
        world_size: int,
        local_rank: int,
        local_size: int,
        inter_rank: int,
        inter_size: int,
        local_tp_size: int | None,
        local_dp_size: int | None,
        inter_tp_size: int | None,
        inter_dp_size: int | None,
        dtype: torch.dtype,
        device: torch.device,
        grid_size: int | None = None,
        max_block_size: int | None = None,
        min_block_size: int = 256,
        min_num_steps: int = 4,
        ib_enable_ibgda: bool = True,
        should_init_nvshmem: bool = True,
        use_autotune: bool = True,
    ) -> None:
        """Collective over the default process group, which has world_size ranks."""
        if inter_size != 1:
            raise Unsupported(
                f"inter_size is {inter_size}: mixcomm.flashinfer runs on the ranks of one host; keep "
                "flashinfer.comm.mixed_comm, or two collectives, between hosts"
            )
        _sides(inter_size, inter_tp_size, inter_dp_size, "inter")
        tp, dp = _sides(local_size, local_tp_size, local_dp_size, "local")
        if world_size != local_size or world_rank != local_rank or inter_rank != 0:
            raise ValueError(
                f"world_rank {world_rank} of {world_size} should be local_rank {local_rank} of "
                f"{local_size} on one host"
            )
        if dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise ValueError(f"dtype should be torch.float16, torch.bfloat16 or torch.float32, not {dtype}")
        self.dtype = dtype
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", torch.cuda.current_device())
        if max_block_size is not None and (max_block_size % 32 != 0 or max_block_size < min_block_size):
            raise ValueError(
                f"max_block_size {max_block_size} should be a multiple of 32, and min_block_size "
                f"{min_block_size} or more"
            )
        self.use_autotune = use_autotune
        self.para_info = ParallelInfo(world_rank, world_size, tp, dp)
        on_cuda = self.device.type == "cuda"
        self.communicator = Communicator(
            _bootstrap.from_torch(),
            tp=tp,
            dp=dp,
            backend="cuda" if on_cuda else "cpu",
            device=self.device.index if on_cuda else -1,
            max_lanes=min(grid_size, 32) if grid_size and on_cuda else 0,
        )
        self.valid_op_list = self.get_valid_op_list()
        self.valid_mode_list = self.get_valid_mode_list()
        self.max_block_size_dict = {
            (op, mode): {"threads": min(max_block_size or _LARGEST_BLOCK, _LARGEST_BLOCK)}
            for op in self.valid_op_list
            for mode in self.valid_mode_list
            if mode.name.startswith("FUSED_")
        }
        self.local_comm_group: dist.ProcessGroup | None = None
        self.tp_comm_group: dist.ProcessGroup | None = None
        self.dp_comm_group: dist.ProcessGroup | None = None
        if self.para_info.use_mixed:
            ranks = range(world_size)
            self.tp_comm_group = _groups(world_rank, [list(ranks[d * tp : d * tp + tp]) for d in range(dp)])
            self.dp_comm_group = _groups(world_rank, [list(ranks[t::tp]) for t in range(tp)])
        self.is_running = True

    def get_valid_op_list(self) -> list[MixedCommOp]:
        """The operations of this grid, as FlashInfer lists them; all five run."""
        if self.para_info.use_mixed:
            return [MixedCommOp.ALLREDUCE_ALLGATHER, MixedCommOp.REDUCESCATTER_ALLREDUCE]
        if self.para_info.use_dp:
            return [MixedCommOp.ALLGATHER, MixedCommOp.REDUCESCATTER]
        return [MixedCommOp.ALLREDUCE]

    def get_valid_mode_list(self) -> list[MixedCommMode]:
        """The modes that have a counterpart on this grid."""
        modes = [MixedCommMode.FUSED_OPT_WAITS_MC, MixedCommMode.FUSED_OPT_WAITS_UC]
        if self.para_info.use_tp:
            modes += [MixedCommMode.FUSED_OPT_BYTES1_MC, MixedCommMode.FUSED_OPT_BYTES1_UC]
        modes.append(MixedCommMode.NCCL_ONE)
        if self.para_info.use_mixed:
            modes.append(MixedCommMode.NCCL_TP_DP)
        if self.use_autotune:
            modes.append(MixedCommMode.AUTOTUNE)
        return modes

    def select_autotune_mode(self, op: MixedCommOp, x_in: torch.Tensor) -> MixedCommMode:
        """The mode whose algorithm "auto" runs for this tensor."""
        rows = x_in.shape[0]
        if op in _SCATTERS:
            rows //= self.para_info.dp_size
        hidden = x_in[0].numel() if x_in.shape[0] else 0
        algorithm = self.communicator.plan(_OPERATIONS[op], rows, hidden, self.dtype)["algorithm"]
        return (
            MixedCommMode.FUSED_OPT_WAITS_UC if algorithm == "one_shot" else MixedCommMode.FUSED_OPT_BYTES1_UC
        )

    def run_autotune(self) -> None:
        """Does nothing: mixcomm chooses by rules that all ranks share, or by the table of `mixcomm tune`."""

    def init_virtual_memory(self) -> None:
        """Does nothing: the communicator has its memory."""

    def init_nvshmem(self) -> None:
        """Does nothing: there is no nvshmem in mixcomm."""

    def checkpoint_prepare(self) -> None:
        """Collective: gives the memory back and keeps its addresses; Communicator.pause().

        Operations are refused until checkpoint_restore(). Twice is fine.
        """
        self.communicator.pause()

    def checkpoint_restore(self, comm_backend: Any) -> None:
        """Collective: memory at the same addresses again; CUDA graphs captured before replay right after.

        comm_backend: of this host's ranks, with Get_rank(), Get_size() and barrier(), which all ranks pass
        when memory is there. They meet through what they met with when the handler was made, which must still
        be connected. Twice is fine. Raises ValueError for a backend of other ranks, and what
        Communicator.resume() raises.
        """
        if not self.communicator.paused:
            return
        rank, size = comm_backend.Get_rank(), comm_backend.Get_size()
        if (rank, size) != (self.para_info.local_rank, self.para_info.local_size):
            raise ValueError(
                f"comm_backend is rank {rank} of {size}; it should be local_rank "
                f"{self.para_info.local_rank} of {self.para_info.local_size}"
            )
        self.communicator.resume()
        comm_backend.barrier()

    def shutdown(self) -> None:
        """Closes the communicator; twice is fine. After the last replay of graphs that use it."""
        if self.is_running:
            self.is_running = False
            self.communicator.close()
            for group in (self.tp_comm_group, self.dp_comm_group):
                if group is not None and dist.is_initialized():
                    dist.destroy_process_group(group)


def _check(
    op: MixedCommOp,
    handler: MixedCommHandler,
    x_in: torch.Tensor,
    x_out: torch.Tensor | None,
    mode: MixedCommMode,
) -> None:
    """The checks of FlashInfer that mixcomm does not make itself."""
    if op not in handler.valid_op_list:
        raise ValueError(
            f"Invalid op: {op.name}; on this grid there are {[each.name for each in handler.valid_op_list]}"
        )
    if mode not in handler.valid_mode_list and mode != MixedCommMode.AUTOTUNE:
        raise Unsupported(
            f"Invalid mode: {mode.name} has no counterpart here; there are "
            f"{[each.name for each in handler.valid_mode_list]}"
        )
    if x_in.ndim < 2:
        raise ValueError(f"x_in.ndim is {x_in.ndim}; it should be at least 2")
    if x_in.dtype != handler.dtype:
        raise ValueError(f"x_in.dtype is {x_in.dtype}; it should be {handler.dtype}")
    if x_in.device != handler.device:
        raise ValueError(f"x_in.device is {x_in.device}; it should be {handler.device}")
    if op in _SCATTERS and x_in.shape[0] % handler.para_info.dp_size != 0:
        raise ValueError(
            f"x_in.shape[0] is {x_in.shape[0]}; dp_size {handler.para_info.dp_size} should divide it"
        )
    if x_out is not None and (x_out.dtype != x_in.dtype or x_out.device != x_in.device):
        raise ValueError(
            f"x_out is {x_out.dtype} on {x_out.device}; it should be as x_in, {x_in.dtype} on {x_in.device}"
        )
    if x_out is not None and (x_out.ndim != x_in.ndim or x_out.shape[1:] != x_in.shape[1:]):
        raise ValueError(
            f"x_out is {tuple(x_out.shape)}; but for its rows it should be as x_in, {tuple(x_in.shape)}"
        )


def _run_one_collective(
    op: MixedCommOp, handler: MixedCommHandler, x_in: torch.Tensor, x_out: torch.Tensor | None
) -> torch.Tensor:
    """NCCL_ONE: one collective of torch.distributed over all ranks, with zeros put in before or cut after."""
    if handler.communicator.paused:
        raise InvalidArgument("the handler is paused; call checkpoint_restore() on every rank first")
    info = handler.para_info
    rows = handler.communicator.out_rows(_OPERATIONS[op], x_in.shape[0])
    if x_out is None:
        x_out = x_in.new_empty(rows, *x_in.shape[1:])
    elif x_out.shape[0] != rows:
        raise ValueError(f"x_out.shape[0] is {x_out.shape[0]}; it should be {rows} rows")
    if op == MixedCommOp.ALLGATHER:
        dist.all_gather_into_tensor(x_out, x_in)
    elif op == MixedCommOp.REDUCESCATTER and x_in.is_cuda:
        dist.reduce_scatter_tensor(x_out, x_in)
    elif op in _SCATTERS:  # sums of all rows; on the CPU also where gloo might scatter them, in late versions
        sums = x_in.clone()
        dist.all_reduce(sums)
        x_out.copy_(sums.unflatten(0, (info.dp_size, -1))[info.dp_rank])
    elif op == MixedCommOp.ALLREDUCE_ALLGATHER:
        x_out.zero_()
        x_out.unflatten(0, (info.dp_size, -1))[info.dp_rank].copy_(x_in)
        dist.all_reduce(x_out)
    else:
        dist.all_reduce(x_out.copy_(x_in))
    return x_out


def run_mixed_comm(
    op: MixedCommOp,
    handler: MixedCommHandler,
    x_in: torch.Tensor,
    x_out: torch.Tensor | None = None,
    mode: MixedCommMode | None = None,
) -> torch.Tensor:
    """Runs ``op`` on x_in, into x_out or a new tensor, which is returned.

    x_in: rows x ..., for the scattering operations dp_size x rows. mode: None is what mixcomm chooses
    (FlashInfer: its autotuned mode, else NCCL). Raises ValueError for values that do not fit
    (mixcomm.InvalidArgument is one), Unsupported for modes without a counterpart, and what Communicator's
    operations raise.
    """
    if mode is None:
        mode = MixedCommMode.AUTOTUNE
    _check(op, handler, x_in, x_out, mode)
    if mode == MixedCommMode.NCCL_ONE:
        return _run_one_collective(op, handler, x_in, x_out)
    return handler.communicator.run(_OPERATIONS[op], x_in, out=x_out, algorithm=_ALGORITHMS[mode])


def _is_compute_capability_supported(cc: int) -> bool:
    """Whether this build has kernels for devices of compute capability cc (90 for 9.0)."""
    for each in _core.cuda_architectures.split(","):
        name, _, kind = each.partition("-")
        number = int(name.rstrip("af") or 0)
        if kind != "real" and number and cc >= number and name.isdigit():
            return True  # PTX, for all later ones
        if (
            kind != "virtual"
            and number
            and (cc == number if name.endswith("a") else cc // 10 == number // 10 and cc >= number)
        ):
            return True
    return False


run_mixed_comm.is_compute_capability_supported = _is_compute_capability_supported  # type: ignore[attr-defined]

__all__ = ["MixedCommHandler", "MixedCommMode", "MixedCommOp", "ParallelInfo", "run_mixed_comm"]
