"""Being here puts this folder on the path, so that every test can import ``helpers``."""

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """Random weights are the same in every run."""
    torch.manual_seed(0)
    np.random.seed(0)
