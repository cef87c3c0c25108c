"""Its place makes ``helpers`` importable from every test; the tests share their cores politely."""

import torch

torch.set_num_threads(2)
