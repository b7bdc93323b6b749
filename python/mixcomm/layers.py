"""A model's boundaries, carried out: the collective between two modules follows from what the model is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

from . import _core, arrays
from . import bootstrap as _bootstrap
from .communicator import default_options
from .errors import InvalidArgument


@dataclass(frozen=True)
class Boundary:
    """Between two modules: out = what the steps make of (input + addends before), + addends after."""

    kind: str  # "before_attention", "before_mlp", "after_mlp", "logits"
    layer: int
    name: str
    takes: str  # how the rows of the input lie: "replicated", "by_dp_rank", "scattered", "by_mlp_team"
    gives: str  # and those of the output
    steps: tuple[str, ...]  # the operations; none: nothing to do
    why: str
    adds_before: tuple[
        str, ...
    ]  # what this rank adds to the input before it crosses: "residual", "shared expert"
    adds_after: tuple[str, ...]  # what every rank adds to the output


@dataclass(frozen=True)
class Layer:
    """What a layer's modules give, where that is not what "dense", "moe" or "moe+shared" alone says.

    Attention gives partial sums over attn_tp, an MLP over the ranks that share it, unless it has reduced them
    itself: then every rank of that team has the complete rows, and no operation sums them again.
    """

    mlp: str = "moe"  # "dense", "moe" or "moe+shared" (with a shared expert)
    attention_reduced: bool = False  # summed over attn_tp
    mlp_reduced: bool = False  # summed over its ranks, a shared expert's output included
    shared_reduced: bool = False  # of "moe+shared": the shared expert's output alone
    attention_adds_residual: bool = False  # every rank's output holds the residual; for a reduced one alone
    mlp_adds_residual: bool = False


class LayerCommunicator:
    """One rank's end of a model's boundaries: an engine calls cross() between its modules.

    Attention takes its DP rank's rows and gives partial sums over attn_tp; experts take all rows and give
    partial sums over moe_tp x moe_ep; dense MLPs run over mlp_tp. Calls: as of Communicator; all ranks cross
    the same boundaries in the same order.
    """

    def __init__(
        self,
        bootstrap: _core.Bootstrap | None = None,
        *,
        attn_tp: int,
        attn_dp: int,
        moe_tp: int = 1,
        moe_ep: int = 1,
        mlp_tp: int = 0,
        layers: Sequence[str | Layer],
        hidden: int,
        dtype: Any = "bfloat16",
        max_rows: int = 4096,
        vocab: int = 0,
        vocab_parallel: bool = False,
        **options: Any,
    ) -> None:
        """Collective over the bootstrap's ranks (None: from_env()), which pass the same.

        attn_tp * attn_dp = moe_tp * moe_ep ranks. mlp_tp: of dense MLPs (0: attn_tp). layers: "dense", "moe",
        "moe+shared" (with a shared expert), or a Layer that says more, one each. hidden: elements of a row.
        max_rows: of all DP ranks in one step. vocab: columns of the logits (0: none are moved);
        vocab_parallel: embedding and head are sharded over attn_tp. options: as of Communicator. Raises
        InvalidArgument for a model in which a sum would be left out or made twice.
        """
        unknown = set(options) - set(default_options())
        if unknown:
            raise InvalidArgument(
                f"there are no options {sorted(unknown)}; there are {sorted(default_options())}"
            )
        if bootstrap is None:
            bootstrap = _bootstrap.from_env(options.get("timeout", _bootstrap.DEFAULT_TIMEOUT))
        model = {
            "attn_tp": attn_tp,
            "attn_dp": attn_dp,
            "moe_tp": moe_tp,
            "moe_ep": moe_ep,
            "mlp_tp": mlp_tp,
            "layers": [asdict(each if isinstance(each, Layer) else Layer(each)) for each in layers],
            "hidden": hidden,
            "dtype": arrays.dtype_name(dtype),
            "max_rows": max_rows,
            "vocab": vocab,
            "vocab_parallel": vocab_parallel,
        }
        self._core = _core.LayerCommunicator(bootstrap, {**default_options(), **options}, model)
        self.layers = tuple(layers)

    def _boundary(self, kind: str, layer: int = 0) -> Boundary:
        found = self._core.describe(kind, layer)
        return Boundary(
            kind=kind, layer=layer, **{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        )

    def before_attention(self, layer: int) -> Boundary:
        """The boundary from the layer before (or the embedding) to attention."""
        return self._boundary("before_attention", layer)

    def before_mlp(self, layer: int) -> Boundary:
        """The boundary from attention to the MLP or the experts."""
        return self._boundary("before_mlp", layer)

    def after_mlp(self, layer: int) -> Boundary:
        """The boundary from the MLP or the experts to what follows."""
        return self._boundary("after_mlp", layer)

    def logits(self) -> Boundary:
        """The boundary behind the head."""
        return self._boundary("logits")

    def rows(self, counts: Sequence[int], way: str = "exact") -> Any:
        """The rows of one step: one count per DP rank; way: "exact", "max_len" or "sum_len" (padded)."""
        return self._core.rows(list(counts), way)

    def range(self, layout: str, rows: Any) -> tuple[int, int]:
        """The first row, and how many, that this rank has where rows lie so."""
        return self._core.range(layout, rows)

    def cross(
        self,
        boundary: Boundary,
        input: Any,
        rows: Any,
        *,
        out: Any = None,
        algorithm: str = "auto",
        stream: int | None = None,
    ) -> Any:
        """What the next module gets of what this rank's module gave; ``input`` may be overwritten.

        input: range(boundary.takes) x hidden; out: range(boundary.gives) x hidden, None for a new array.
        """
        if out is None:
            out = arrays.empty_like(input, self.range(boundary.gives, rows)[1])
        self._core.cross(boundary.kind, boundary.layer, input, out, rows, algorithm, stream)
        return out

    def pause(self) -> None:
        """Collective: gives all of its memory back to the system; see Communicator.pause."""
        self._core.pause()

    def resume(self) -> None:
        """Collective: memory at the same addresses again; see Communicator.resume."""
        self._core.resume()

    @property
    def paused(self) -> bool:
        """Whether pause() was called last."""
        return self._core.paused

    def close(self) -> None:
        """Ends this rank's part; later calls raise InvalidArgument. Local; closing twice is fine."""
        self._core.close()

    def __enter__(self) -> LayerCommunicator:
        """Itself; closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled."""
        raise TypeError(
            "a mixcomm.LayerCommunicator cannot be pickled or copied: it is shared memory and a place in the "
            "grid, which belong to this process. Make one in each process"
        )
