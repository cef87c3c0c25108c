"""Reference numbers from the original code bases."""

import functools
import json
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


@functools.cache
def golden(name):
    """{case: {array name: tensor}} of a file that ``golden/pack.py`` wrote."""
    with np.load(GOLDEN / f"{name}.npz") as z:
        arrays = {k: torch.from_numpy(z[k]) for k in z.files if k != "index"}
        index = json.loads(str(z["index"]))
    return {case: {k: arrays[v] for k, v in named.items()} for case, named in index.items()}
