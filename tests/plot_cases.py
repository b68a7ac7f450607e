"""Values that several tests of figures draw."""

import torch

VALUES = torch.tensor([[0.5, -2.0, 0.0], [1.0, 0.25, 0.0]])
NAN, INF = float("nan"), float("inf")
