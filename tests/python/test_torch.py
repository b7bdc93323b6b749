"""The PyTorch ops: numbers, compile, export, opcheck, refusal of autograd; on CPU."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import numpy as np  # noqa: E402
from oracle import expected, in_rows, same_bits  # noqa: E402
from tensors import to_numpy  # noqa: E402

import mixcomm  # noqa: E402
import mixcomm.torch as ops  # noqa: E402

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(autouse=True)
def no_threads_of_its_own():
    """Ranks are threads here, on few processors."""
    torch.set_num_threads(1)


def alone(**options):
    """A communicator of one rank, in this thread."""
    return mixcomm.Communicator(mixcomm.from_env(), tp=1, dp=1, **options)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize(("tp", "rows"), [(2, [3, 3]), (2, [4, 0]), (1, [1, 5, 2]), (4, [2])])
def test_against_numpy(tp, rows, name):
    """Functional and out variants, methods and ops, bit by bit; new inputs for each call."""
    world = tp * len(rows)
    generator = torch.Generator().manual_seed(world)
    inputs = {
        (op, turn): [
            torch.randn(in_rows(op, rows, r // tp), 9, generator=generator).to(DTYPES[name])
            for r in range(world)
        ]
        for op in mixcomm.OPERATIONS
        for turn in range(3)
    }

    def rank(bootstrap):
        r = bootstrap.rank
        communicator = mixcomm.Communicator(bootstrap, tp=tp)
        number = communicator if r % 2 else ops.register(communicator)
        for op in mixcomm.OPERATIONS:
            counts = () if op == "all_reduce" else (rows,)

            def check(got, turn, op=op):
                assert isinstance(got, torch.Tensor)
                same_bits(to_numpy(got), expected(op, [to_numpy(x) for x in inputs[op, turn]], tp, rows, r))

            check(getattr(ops, op)(number, inputs[op, 0][r], *counts), 0)
            out = torch.empty_like(getattr(communicator, op)(inputs[op, 1][r], *counts))
            check(getattr(communicator, op)(inputs[op, 1][r], *counts), 1)
            assert getattr(ops, op)(number, inputs[op, 2][r], *counts, out=out) is out
            check(out, 2)

    mixcomm.run_threads(world, rank)


def test_no_copies():
    """Tensors over symmetric memory, and out=, keep their addresses."""
    with alone() as communicator:
        x = communicator.empty((4, 8), torch.bfloat16)
        assert x.dtype == torch.bfloat16
        assert not x.any()
        assert x.data_ptr() % 4096 == 0
        x.fill_(2)
        out = torch.zeros_like(x)
        before = out.data_ptr()
        assert communicator.all_reduce(x, out=out) is out
        assert out.data_ptr() == before
        assert (out == 2).all()
    x.fill_(3)  # the memory outlives the communicator
    with alone() as communicator:
        mixed = np.zeros((4, 8), np.float32)
        communicator.all_reduce(torch.ones(4, 8), out=mixed)  # frameworks may be mixed
        assert (mixed == 1).all()


def test_autograd_is_refused():
    """With the way out; without recording there is nothing to refuse."""
    with alone() as communicator:
        x = torch.ones(2, 4, requires_grad=True)
        for call in (lambda: ops.all_reduce(communicator, x), lambda: communicator.all_reduce(x)):
            with pytest.raises(mixcomm.InvalidArgument, match="inference"):
                call()
            with torch.no_grad():
                assert call().equal(torch.ones(2, 4))
        with pytest.raises(mixcomm.InvalidArgument, match="inference"):
            ops.all_reduce(communicator, torch.ones(2, 4), out=torch.ones(2, 4, requires_grad=True))
        with torch.inference_mode():
            assert ops.all_reduce(communicator, x).equal(torch.ones(2, 4))


def test_tensors_that_cannot_be():
    """Each with what is wrong."""
    with alone() as communicator:
        for x, message in [
            (torch.ones(4, 4).T[1:], "contiguous"),
            (torch.ones(4, 4, dtype=torch.float64), "float64"),
            (torch.ones((4, 4), device="meta"), "meta"),
            (torch.ones(()), "axes"),
        ]:
            with pytest.raises(mixcomm.InvalidArgument, match=message):
                communicator.all_reduce(x, out=torch.ones(4, 4))
        with pytest.raises(mixcomm.InvalidArgument, match="number 12345"):
            ops.all_reduce(12345, torch.ones(1, 1))


def test_whoever_looks_on_sees_the_ops():
    """Eager calls go past the dispatcher, but tracers and profilers find them; inputs may be views."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with alone() as communicator, torch.no_grad():
        x = torch.randn(3, 4)
        graph = make_fx(lambda x: ops.all_gather(communicator, x))(x).graph
        assert any("mixcomm.all_gather" in str(node.target) for node in graph.nodes)
        with torch.profiler.profile() as profile:
            ops.all_reduce(communicator, x)
        assert any(event.name == "mixcomm::all_reduce" for event in profile.events())
        assert ops.all_reduce(communicator, x.T).equal(x.T)


@pytest.mark.parametrize("op", mixcomm.OPERATIONS)
def test_opcheck(op):
    """PyTorch's own check of schema, fake kernel, autograd registration and tracing."""
    with alone() as communicator:
        number = ops.register(communicator)
        rows = None if op == "all_reduce" else [3]
        x, out = torch.randn(3, 4), torch.empty(3, 4)
        tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
        torch.library.opcheck(
            getattr(torch.ops.mixcomm, op).default, (x, number, rows, "auto"), test_utils=tests
        )
        torch.library.opcheck(
            getattr(torch.ops.mixcomm, op + "_out").default, (x, out, number, rows, "auto"), test_utils=tests
        )


def block(communicator, x, weight):
    """A module between two boundaries, as an engine has it."""
    y = torch.relu(ops.all_reduce_all_gather(communicator, x) @ weight)
    return ops.reduce_scatter_all_reduce(communicator, y) + x


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_without_graph_breaks(dynamic):
    """fullgraph=True raises at a break. Compiled gives what eager does, in several shapes."""
    torch._dynamo.reset()
    with alone() as communicator, torch.no_grad():
        number = ops.register(communicator)
        compiled = torch.compile(
            lambda x, w: block(number, x, w), fullgraph=True, dynamic=dynamic, backend="aot_eager"
        )
        for rows in (3, 5):
            x, weight = torch.randn(rows, 8), torch.randn(8, 8)
            torch.testing.assert_close(compiled(x, weight), block(communicator, x, weight))


def test_export():
    """The ops stand in the exported program, with symbolic rows."""

    class Module(torch.nn.Module):
        def forward(self, x):
            return ops.all_gather(self.number, torch.relu(x))

    with alone() as communicator, torch.no_grad():
        module = Module()
        module.number = ops.register(communicator)
        rows = torch.export.Dim("rows", min=2, max=64)
        program = torch.export.export(module, (torch.randn(4, 8),), dynamic_shapes={"x": {0: rows}})
        assert any("mixcomm.all_gather" in str(node.target) for node in program.graph.nodes)
        x = torch.randn(7, 8)
        torch.testing.assert_close(program.module()(x), torch.relu(x))


def finished_inputs():
    """Partial sums of each rank of 2 x 2, residuals of each DP rank, a weight."""
    generator = torch.Generator().manual_seed(11)
    rows, hidden = [3, 2], 256
    inputs = [torch.randn(rows[r // 2], hidden, generator=generator).bfloat16() for r in range(4)]
    residuals = [torch.randn(count, hidden, generator=generator).bfloat16() for count in rows]
    weight = torch.rand(hidden, generator=generator).bfloat16()
    return rows, inputs, residuals, weight


def test_finished_beside_pytorch():
    """Against torch's own rms_norm and casts, which add in other orders: within a step of bf16 and of FP8."""
    rows, inputs, residuals, weight = finished_inputs()
    sums = [
        (inputs[2 * d].float() + inputs[2 * d + 1].float() + residuals[d].float()).bfloat16()
        for d in range(2)
    ]
    everything = torch.cat(sums)
    normed = torch.nn.functional.rms_norm(everything.float(), (256,), weight.float(), 1e-6)

    def rank(bootstrap):
        r = bootstrap.rank
        communicator = mixcomm.Communicator(bootstrap, tp=2)
        arguments = ("all_reduce_all_gather", communicator, inputs[r], rows)
        steps = {"residual": residuals[r // 2], "weight": weight}
        got = ops.finished(*arguments, **steps)
        assert torch.equal(got.residual_out, sums[r // 2])
        assert got.scales is None
        torch.testing.assert_close(got.out.float(), normed, rtol=2**-7, atol=1e-6)
        fp8 = ops.finished(*arguments, **steps, keep_residual=False, quantize="per_128_columns")
        assert fp8.out.dtype == torch.float8_e4m3fn
        assert fp8.residual_out is None
        parts = got.out.float().view(5, 2, 128)
        scales = parts.abs().amax(-1).clamp(min=1e-10) / 448
        assert torch.equal(fp8.scales, scales)
        codes = (parts / scales[..., None]).to(torch.float8_e4m3fn).view(5, 256)
        assert torch.equal(fp8.out.view(torch.uint8), codes.view(torch.uint8))

    mixcomm.run_threads(4, rank)


def test_finished_is_an_op():
    """Opcheck, compile without a graph break, and the refusal of autograd."""
    communicator = alone()
    number = ops.register(communicator)
    x, residual = torch.randn(4, 64), torch.randn(4, 64)
    weight = torch.rand(64)
    steps = (residual, weight, True, 1e-6, False, "none", None)
    torch.library.opcheck(torch.ops.mixcomm.all_reduce_finished.default, (x, number, None, "auto", *steps))
    fp8 = (residual, weight, False, 1e-6, True, "per_token", None)
    torch.library.opcheck(
        torch.ops.mixcomm.all_reduce_all_gather_finished.default, (x, number, [4], "auto", *fp8)
    )

    def layer(x, residual):
        y, kept, _ = ops.finished("all_reduce", number, x * 2, residual=residual, weight=weight)
        return y + 1, kept

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for got, wanted in zip(compiled(x, residual), layer(x, residual), strict=True):
        assert torch.equal(got, wanted)
    with pytest.raises(mixcomm.InvalidArgument, match="requires grad"):
        ops.finished("all_reduce", number, x, weight=weight.clone().requires_grad_())
