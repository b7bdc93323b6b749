"""What torch, cupy and jax bring on a GPU: streams, memory without copies, graphs, compiling; one rank."""

import os

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from cuda_streams import why_no_cuda  # noqa: E402

import mixcomm  # noqa: E402
import mixcomm.torch as ops  # noqa: E402

pytestmark = pytest.mark.skipif(bool(why_no_cuda()), reason=why_no_cuda())
DELAY = 100_000_000  # of the GPU's clock: a part of a second


@pytest.fixture
def communicator():
    """Of one rank, in this thread."""
    with mixcomm.Communicator(mixcomm.from_env(), backend="cuda") as made, torch.inference_mode():
        yield made
        torch.cuda.synchronize()
        made.check()


def cupy():
    """The module, for tests that are skipped without it."""
    return pytest.importorskip("cupy", reason="cupy is not installed")


def test_torchs_current_stream(communicator):
    """A call waits for what was put on it, and for nothing else; a stream that is given counts instead."""
    side = torch.cuda.Stream()
    x, out = torch.zeros(2, 64, device="cuda"), torch.zeros(2, 64, device="cuda")
    for value, explicit in ((1, False), (2, True)):
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            torch.cuda._sleep(DELAY)
            x.fill_(value)
            if not explicit:
                communicator.all_reduce(x, out=out)
        if explicit:
            communicator.all_reduce(x, out=out, stream=side.cuda_stream)
        side.synchronize()
        assert (out == value).all()
    with torch.cuda.stream(side):
        torch.cuda._sleep(DELAY)
        x.fill_(3)
        late = ops.all_reduce(communicator, x)
    side.synchronize()
    assert (late == 3).all()


def test_cupys_current_stream(communicator):
    """The same for cupy; its arrays come and go without a copy, row counts among them, also in a capture."""
    cp = cupy()
    side = cp.cuda.Stream(non_blocking=True)
    x, out = cp.zeros((2, 64), cp.float32), cp.zeros((2, 64), cp.float32)
    counts = cp.array([2], cp.int64)
    cp.cuda.Device().synchronize()
    with side, torch.cuda.stream(torch.cuda.ExternalStream(side.ptr)):
        torch.cuda._sleep(DELAY)
        x.fill(1)
        assert communicator.all_reduce(x, out=out) is out
        new = communicator.all_gather(x, counts)
    side.synchronize()
    assert isinstance(new, cp.ndarray)
    assert (out == 1).all()
    assert (new == 1).all()
    with side:
        side.begin_capture()
        communicator.all_gather(x, counts, out=out)
        graph = side.end_capture()
        x.fill(5)
        counts.fill(1)
        graph.launch(side)
    side.synchronize()
    assert (out[0] == 5).all()
    assert (out[1] == 1).all()


def test_addresses(communicator):
    """Symmetric memory is one piece of memory for all frameworks, and outlives the communicator."""
    buffer = communicator.allocate(4096)
    assert buffer.on_cuda
    x = torch.from_dlpack(buffer.array((2, 8), "bf16", 256))
    assert x.data_ptr() == buffer.data_ptr + 256
    assert (x.device.type, x.device.index) == ("cuda", torch.cuda.current_device())
    back = torch.from_dlpack(torch.utils.dlpack.to_dlpack(x))
    assert back.data_ptr() == x.data_ptr()
    y = communicator.empty((4, 8), torch.float16)
    assert y.data_ptr() % 4096 == 0
    assert not y.any()
    out = y[2:].view(2, 8)
    assert communicator.all_reduce(y[:2].fill_(3), out=out).data_ptr() == out.data_ptr()
    assert (y == 3).all()
    made = mixcomm.Communicator(mixcomm.from_env(), backend="cuda")
    kept = made.empty((4, 8), torch.bfloat16)
    made.close()
    del made
    assert (kept.fill_(2) == 2).all()


def test_cupy_addresses(communicator):
    """What cupy sees is the same memory."""
    cp = cupy()
    array = cp.from_dlpack(communicator.empty((4, 8), "float32"))
    array.fill(2)
    out = cp.empty_like(array)
    before = out.data.ptr
    assert communicator.all_reduce(array, out=out) is out
    assert out.data.ptr == before
    assert (out == 2).all()
    tensor = torch.zeros(4, 8, device="cuda")
    communicator.all_reduce(array, out=tensor)  # frameworks may be mixed
    cp.cuda.Device().synchronize()
    assert (tensor == 2).all()


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_jax_input(communicator, name):
    """jax arrays are read where they are; they may not be written, so out= is needed."""
    jax = pytest.importorskip("jax", reason="jax is not installed")
    if jax.default_backend() != "gpu":
        pytest.skip("jax has no GPU here")
    x = (jax.numpy.arange(64).reshape(2, 32) - 9).astype(name).block_until_ready()
    out = torch.zeros(2, 32, dtype=getattr(torch, name), device="cuda")
    communicator.all_reduce(x, out=out)
    torch.cuda.synchronize()
    assert (out.float().cpu().numpy() == x.astype("float32")).all()
    with pytest.raises(mixcomm.Unsupported, match="out="):
        communicator.all_reduce(x)


def test_refusals(communicator):
    """Each with what is wrong, and what to do."""
    x, out = torch.ones(2, 4, device="cuda"), torch.empty(2, 4, device="cuda")
    counts = torch.tensor([2], device="cuda")
    for call, message in [
        (lambda: communicator.all_reduce(x.cpu(), out=out), "'input' is in host memory"),
        (lambda: communicator.all_reduce(x, out=out.cpu()), "'out' is in host memory"),
        (lambda: communicator.all_reduce(x.double(), out=out), "float64"),
        (lambda: communicator.all_gather(x.T, out=out), "contiguous"),
        (lambda: communicator.all_gather(x, counts.int(), out=out), "int64"),
        (lambda: communicator.all_gather(x, counts.repeat(2), out=out), "2 row counts"),
    ]:
        with pytest.raises(mixcomm.InvalidArgument, match=message):
            call()
    with pytest.raises(mixcomm.Unsupported, match="on the host"):
        communicator.all_gather(x, counts, algorithm="composed")
    with torch.inference_mode(False), torch.enable_grad():
        recorded = torch.ones(2, 4, device="cuda", requires_grad=True)
        for call in (communicator.all_reduce, lambda each: ops.all_reduce(communicator, each)):
            with pytest.raises(mixcomm.InvalidArgument, match="inference"):
                call(recorded)
    with mixcomm.Communicator(mixcomm.from_env()) as on_host:
        with pytest.raises(mixcomm.InvalidArgument, match="is in CUDA memory"):
            on_host.all_reduce(x)
        with pytest.raises(mixcomm.Unsupported, match="backend cuda"):
            on_host.all_gather(x.cpu(), counts, out=out.cpu())


def test_another_device(communicator):
    """A tensor on another GPU than the communicator's is refused."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device")
    with pytest.raises(mixcomm.InvalidArgument, match="device 1"):
        communicator.all_reduce(torch.ones(2, 4, device="cuda:1"))


def test_counts_that_do_not_fit(communicator):
    """The kernels find them, and check() says so; only that communicator is failed."""
    failing = mixcomm.Communicator(mixcomm.from_env(), backend="cuda")
    x = torch.ones(2, 4, device="cuda")
    failing.all_gather(x, torch.tensor([3], device="cuda"))
    torch.cuda.synchronize()
    with pytest.raises(mixcomm.InvalidArgument, match="row counts in device memory"):
        failing.check()
    communicator.all_gather(x, torch.tensor([1], device="cuda"))


def test_opcheck(communicator):
    """PyTorch's own check of schema, fake kernel and tracing, on the kernels for CUDA."""
    number = ops.register(communicator)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    with torch.inference_mode(False):
        x = torch.randn(3, 4, device="cuda")
        for op in mixcomm.OPERATIONS:
            rows = None if op == "all_reduce" else [3]
            functional, into = getattr(torch.ops.mixcomm, op), getattr(torch.ops.mixcomm, op + "_out")
            torch.library.opcheck(functional.default, (x, number, rows, "auto"), test_utils=tests)
            torch.library.opcheck(
                into.default, (x, torch.empty_like(x), number, rows, "auto"), test_utils=tests
            )


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(communicator, mode):
    """Without a graph break (fullgraph=True raises at one), by Inductor, and in the CUDA graphs it makes."""
    torch._dynamo.reset()
    number = ops.register(communicator)

    def block(x, weight):
        y = torch.relu(ops.all_reduce_all_gather(number, x) @ weight)
        return ops.reduce_scatter_all_reduce(number, y) + x

    compiled = torch.compile(block, fullgraph=True, mode=mode, dynamic=False)
    with torch.inference_mode(False), torch.no_grad():
        weight = torch.randn(64, 64, device="cuda")
        for _ in range(4):  # with CUDA graphs: as it is, recorded, replayed
            x = torch.randn(8, 64, device="cuda")
            torch.compiler.cudagraph_mark_step_begin()
            torch.testing.assert_close(compiled(x, weight).clone(), block(x, weight), atol=1e-4, rtol=1e-4)


def test_a_captured_graph(communicator):
    """By hand, with row counts in device memory, replayed with others and with new inputs."""
    x = torch.zeros(4, 64, dtype=torch.bfloat16, device="cuda")
    counts = torch.zeros(1, dtype=torch.int64, device="cuda")
    out = torch.zeros_like(x)
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        communicator.all_reduce_all_gather(x, counts, out=out)
        y = ops.all_reduce(communicator, x)
    for value in range(1, 5):
        x.fill_(value)
        counts.fill_(value)
        out.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert (out[:value] == value).all()
        assert not out[value:].any()
        assert (y == value).all()
