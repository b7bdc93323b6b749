"""Between numpy and torch, bf16 included (which numpy has from ml_dtypes)."""

import ml_dtypes
import numpy as np
import torch


def to_numpy(tensor):
    """Over the same memory where that is the host's."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def to_torch(array, device="cpu"):
    """The same elements on that device."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).to(device).view(torch.bfloat16)
    return torch.from_numpy(array).to(device)
