"""Weights of the reference models, generated from seeds."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch

_KEYS = Path(__file__).parents[1] / "golden" / "keys.json.gz"


def key_lists():
    """{origin/config: {name: shape}} of every published model."""
    with gzip.open(_KEYS) as file:
        return json.loads(file.read())


def sorted_recipe(keys, seed=1234):
    """One generator for all tensors, in the order of their names."""
    rs, state = np.random.RandomState(seed), {}
    for key in sorted(keys):
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        x, shape = rs.standard_normal(keys[key]), keys[key]
        if key.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif key.endswith("running_mean"):
            x = 0.1 * x
        elif len(shape) >= 2:
            x = x * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith((".weight", ".scale")):
            x = 1 + 0.1 * x
        elif key.endswith(("cls_logits.bias", "cls_score.bias")):
            x = 0.1 * x - 3.0
        else:
            x = 0.1 * x
        state[key] = torch.from_numpy(np.asarray(x, dtype=np.float32))
    return state


def hashed_recipe(keys, seed):
    """A generator for each tensor, seeded by its name."""
    return {key: torch.from_numpy(_hashed(key, shape, seed)) for key, shape in keys.items()}


def _hashed(key, shape, seed):
    if key.endswith("num_batches_tracked"):
        return np.array(0)
    rs = np.random.RandomState((zlib.crc32(key.encode()) + seed) & 0xFFFFFFFF)
    x, last = rs.standard_normal(tuple(shape)), key.split(".")[-1]
    if last == "running_var":
        x = 1 + 0.2 * np.tanh(x)
    elif last == "running_mean":
        x = 0.1 * x
    elif last == "scale":
        x = 1 + 0.1 * x
    elif last == "bias":
        if key.endswith(("cls_logits.bias", "cls_score.bias", "conv_cls.bias")):
            x = -3.0 + 0.3 * x
        elif key.endswith(("bbox_pred.bias", "bbox_reg.bias", "conv_reg.bias")):
            x = 2.0 + 0.3 * x
        else:
            x = 0.05 * x
    elif len(shape) <= 1:
        small = key.endswith(("bn3.weight", "conv3.norm.weight"))
        x = (0.25 if small else 1.0) * (1 + 0.1 * x)
    else:
        scale = np.sqrt(2.0 / np.prod(shape[1:]))
        if ".offset." in "." + key or "conv2_offset" in key:
            scale *= 0.004 if key.startswith("backbone.") else 0.2
        x = x * scale
    return np.asarray(x, dtype=np.float32)
