"""Where results go: new arrays in the caller's framework."""

from __future__ import annotations

import sys
from typing import Any

from .errors import InvalidArgument, Unsupported

# Names of dtypes, of whichever framework, as the library has them.
_DTYPES = {
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float16": "fp16",
    "fp16": "fp16",
    "float32": "fp32",
    "fp32": "fp32",
}


def dtype_name(dtype: Any) -> str:
    """The library's name ("bf16", "fp16", "fp32") of a dtype of numpy, torch, ml_dtypes or a string."""
    text = getattr(dtype, "__name__", None) or str(dtype)
    name = _DTYPES.get(text.rsplit(".", 1)[-1])
    if name is None:
        raise InvalidArgument(f"the dtype is {dtype!r}; it may be bfloat16, float16 or float32")
    return name


def is_torch(array: Any) -> bool:
    """Whether it is a torch tensor; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def empty_like(array: Any, rows: int) -> Any:
    """An uninitialized array like ``array`` with ``rows`` rows, in its framework and on its device."""
    shape = (rows, *array.shape[1:])
    if is_torch(array):
        return array.new_empty(shape)
    if type(array).__module__.partition(".")[0] == "numpy":
        import numpy as np

        return np.empty(shape, array.dtype)
    if type(array).__module__.startswith("cupy"):
        return sys.modules["cupy"].empty(shape, dtype=array.dtype)
    raise Unsupported(
        f"out= is needed for arrays of {type(array).__module__}: mixcomm makes arrays of numpy, torch and "
        "cupy, and those of other frameworks may not be written once they are made"
    )


def over_buffer(buffer: Any, shape: tuple[int, ...], dtype: Any, offset: int = 0) -> Any:
    """An array over symmetric memory; see Communicator.empty."""
    name = dtype_name(dtype)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(dtype, torch.dtype):
        return torch.from_dlpack(buffer.array(shape, name, offset))
    if buffer.on_cuda:
        return buffer.array(shape, name, offset)
    import numpy as np

    if name != "bf16":
        return np.asarray(buffer.array(shape, name, offset))
    import ml_dtypes

    return np.asarray(buffer.array(shape, name, offset, True)).view(ml_dtypes.bfloat16)
