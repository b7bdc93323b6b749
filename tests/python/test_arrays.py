"""Arrays come and go without a copy; what is no array is refused."""

import ml_dtypes
import numpy as np
import pytest

import mixcomm


def alone(**options):
    """A communicator of one rank, in this thread."""
    return mixcomm.Communicator(mixcomm.from_env(), tp=1, dp=1, **options)


def address(array):
    """Where its elements are."""
    return array.__array_interface__["data"][0]


class DLPackOnly:
    """An array of which only DLPack is known."""

    def __init__(self, array):
        self.array = array
        self.shape = array.shape

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_out_is_written_in_place():
    """The out that comes back is the one that was given, of every kind."""
    with alone() as communicator:
        x = np.arange(12, dtype=np.float32).reshape(3, 4)
        out = np.zeros_like(x)
        before = address(out)
        assert communicator.all_reduce(x, out=out) is out
        assert address(out) == before
        assert (out == x).all()
        wrapped = np.zeros_like(x)
        communicator.all_reduce(DLPackOnly(x), out=DLPackOnly(wrapped))
        assert (wrapped == x).all()
        raw = bytearray(48)
        communicator.all_reduce(memoryview(x), out=memoryview(raw).cast("f", (3, 4)))
        assert raw == x.tobytes()


def test_in_place():
    """Input and out may be the same array."""

    def rank(bootstrap):
        with mixcomm.Communicator(bootstrap, tp=2) as communicator:
            x = np.full((2, 5), bootstrap.rank + 1, ml_dtypes.bfloat16)
            communicator.all_reduce(x, out=x)
            assert (x == 3).all()

    mixcomm.run_threads(2, rank)


def test_symmetric_memory_is_not_copied():
    """Arrays over one buffer see each other's elements, also after a round trip through DLPack."""

    def rank(bootstrap):
        with mixcomm.Communicator(bootstrap, tp=2) as communicator:
            buffer = communicator.allocate(4096)
            assert buffer.nbytes == 4096
            assert buffer.data_ptr % 4096 == 0
            x = np.from_dlpack(buffer.array((2, 8), "fp32", 128))
            assert address(x) == buffer.data_ptr + 128
            x[:] = bootstrap.rank + 1
            communicator.all_reduce(x, out=x, algorithm="two_shot")
            again = np.asarray(buffer.array((2, 8), "fp32", 128))
            assert (again == 3).all()
            y = communicator.empty((4, 8), "bfloat16")
            assert y.dtype == ml_dtypes.bfloat16
            assert not y.any()
        del communicator, buffer
        assert (x == 3).all()  # the memory outlives buffer and communicator

    mixcomm.run_threads(2, rank)


def test_higher_axes_are_hidden():
    """rows x heads x channels stays in its shape."""
    with alone() as communicator:
        x = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
        assert communicator.all_gather(x).shape == (2, 3, 4)
        assert communicator.all_reduce(np.zeros((0, 4), np.float32)).shape == (0, 4)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((4, 4), np.float64), "dtype"),
        (np.zeros((4, 4), np.int32), "dtype"),
        (np.zeros((4, 4), np.float32).T[::2], "contiguous"),
        (np.zeros((), np.float32), "no axes"),
        ("text", "no array"),
        ([[1.0, 2.0]], "no array"),
    ],
)
def test_what_is_no_tensor_is_refused(x, message):
    """The message says what was found, and the communicator goes on."""
    with alone() as communicator:
        with pytest.raises(mixcomm.InvalidArgument, match=message):
            communicator.all_reduce(x, out=np.zeros((4, 4), np.float32))
        assert communicator.all_reduce(np.ones((1, 1), np.float32)) == 1


def test_a_read_only_out_is_refused():
    """And a read-only input is fine."""
    with alone() as communicator:
        x = np.ones((2, 2), np.float32)
        x.flags.writeable = False
        assert (communicator.all_reduce(x) == 1).all()
        with pytest.raises(mixcomm.InvalidArgument, match="read-only"):
            communicator.all_reduce(np.ones((2, 2), np.float32), out=x)


class Immutable:
    """An array of a package whose arrays never change: it says so neither by a flag nor in its capsule."""

    def __init__(self, array):
        self.array = array

    @property
    def shape(self):
        """As arrays have it."""
        return self.array.shape

    def __dlpack__(self, **_):
        """Of the kind without flags."""
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        """Host memory."""
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("module", ["jaxlib._jax", "jax._src.array", "tensorflow.python.framework.ops"])
def test_an_out_that_never_changes_is_refused_by_its_package(module):
    """Inputs of these are fine."""
    kind = type("Array", (Immutable,), {"__module__": module})
    with alone() as communicator:
        memory = np.ones((2, 2), np.float32)
        out = np.zeros((2, 2), np.float32)
        assert (communicator.all_reduce(kind(memory), out=out) == 1).all()
        with pytest.raises(mixcomm.InvalidArgument, match=f"of {module.partition('.')[0][:3]}.* always are"):
            communicator.all_reduce(out, out=kind(memory * 2))


@pytest.mark.parametrize("package", ["jax.numpy", "tensorflow", "pyarrow"])
def test_an_out_of_such_a_package_is_refused(package):
    """The real thing, where it is installed; nothing is written to it."""
    module = pytest.importorskip(package, reason=f"{package} is not installed")
    make = {"jax.numpy": "asarray", "tensorflow": "constant", "pyarrow": "array"}[package]
    out = getattr(module, make)(np.zeros(4, np.float32))
    with alone() as communicator:
        with pytest.raises(mixcomm.InvalidArgument, match="read-only"):
            communicator.all_reduce(np.ones(4, np.float32), out=out)
        assert (np.asarray(out) == 0).all()


@pytest.mark.parametrize("rows", [3, [3], (3,), np.array([3]), np.int64(3), [np.int32(3)]])
def test_kinds_of_row_counts(rows):
    """Ints, sequences and arrays of ints."""
    with alone() as communicator:
        assert communicator.all_gather(np.ones((3, 2), np.float32), rows).shape == (3, 2)


@pytest.mark.parametrize(
    ("rows", "message"), [([1, 2], "2 row counts"), (-1, "row count"), ([2.5], "whole"), (4, "rows")]
)
def test_wrong_row_counts(rows, message):
    """Each with what is wrong."""
    with alone() as communicator, pytest.raises(mixcomm.InvalidArgument, match=message):
        communicator.all_gather(np.ones((3, 2), np.float32), rows, out=np.ones((3, 2), np.float32))
