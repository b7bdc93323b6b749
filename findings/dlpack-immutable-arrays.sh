#!/usr/bin/env bash
# Arrays that never change, and do not say so.
#
# DLPack 1.0 has a flag for read-only memory, in capsules that are named "dltensor_versioned". A consumer that asks for them
# (max_version=(1, 0)) gets one from numpy, with the flag set for a read-only array, and from pyarrow. From jax, whose arrays are
# all immutable, it gets the older kind, "dltensor", without an error and without a flag: a consumer that takes it for writable
# writes into the array, which then changes. Hence mixcomm knows these arrays by their package.
#
# Seen with numpy 2.4.6, jax 0.10.2 (CPU), pyarrow 26.0.1, Python 3.11:
#   numpy: dltensor_versioned, read-only flag 1
#   jax: dltensor
#   pyarrow: dltensor_versioned
#   jax after a write through the capsule: [1.0, 1.0, 1.0, 1.0]
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6 jax==0.10.2 jaxlib==0.10.2 pyarrow==26.0.1
"$folder/env/bin/python" - <<'PYTHON' | tee "$folder/seen"
import ctypes

import jax.numpy
import numpy
import pyarrow

name_of = ctypes.pythonapi.PyCapsule_GetName
name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

read_only = numpy.zeros(4, numpy.float32)
read_only.flags.writeable = False
capsule = read_only.__dlpack__(max_version=(1, 0))
name = name_of(capsule)
# DLManagedTensorVersioned: version, manager_ctx, deleter, flags
flags = ctypes.c_uint64.from_address(pointer_of(capsule, name) + 24).value
print(f"numpy: {name.decode()}, read-only flag {flags & 1}")

immutable = jax.numpy.zeros(4, jax.numpy.float32).block_until_ready()
capsule = immutable.__dlpack__(max_version=(1, 0))
print("jax:", name_of(capsule).decode())
other = pyarrow.array(numpy.zeros(4, numpy.float32)).__dlpack__(max_version=(1, 0))
print("pyarrow:", name_of(other).decode())

# What a consumer does that trusts it. DLTensor begins with the address of the data.
data = ctypes.c_void_p.from_address(pointer_of(capsule, b"dltensor")).value
(ctypes.c_float * 4).from_address(data)[:] = [1.0] * 4
print("jax after a write through the capsule:", immutable.tolist())
PYTHON
diff "$folder/seen" - <<'SEEN' && echo "as it was"
numpy: dltensor_versioned, read-only flag 1
jax: dltensor
pyarrow: dltensor_versioned
jax after a write through the capsule: [1.0, 1.0, 1.0, 1.0]
SEEN
