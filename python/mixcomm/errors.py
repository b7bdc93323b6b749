"""What mixcomm raises. Every message gives the values, the rule that they break, and the way out."""


class Error(RuntimeError):
    """Base of everything that mixcomm raises."""


class InvalidArgument(Error, ValueError):
    """The caller's values break a rule of the call. Nothing was sent; the communicator stays usable."""


class Unsupported(Error, NotImplementedError):
    """The request is well-formed, but this build, machine or backend cannot serve it."""


class Disagreement(Error):
    """Ranks called different operations, shapes, dtypes or algorithms. The communicator is failed."""


class Timeout(Error, TimeoutError):
    """A rank did not arrive before the deadline. The communicator (or the set-up step) is failed.

    ``missing`` are the ranks that had not arrived, ascending.
    """

    missing: tuple[int, ...] = ()


class PeerGone(Timeout):
    """A rank will not arrive, however long one waits: its process has ended. ``missing`` says which."""


class CudaError(Error):
    """A CUDA call failed."""


class SystemError(Error, OSError):
    """The operating system refused something (memory, sockets, descriptors)."""
