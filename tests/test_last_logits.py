"""The logits that a metric gets from a sweep: the last position can be read, and anything else is refused."""

from __future__ import annotations

import pytest
import torch

from utils.patching.last_logits import LastLogits


@pytest.fixture
def guarded():
    return torch.randn(3, 1, 5).as_subclass(LastLogits)


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[:, -1],
        lambda x: x[:, -1, :],
        lambda x: x[..., -1, :],
        lambda x: x[:, -1:][:, -1],
        lambda x: x[torch.arange(3), -1],
        lambda x: x[torch.tensor([True, True, True]), -1],
        lambda x: x.double().float()[:, -1],
        lambda x: (x + 0)[:, -1],
        lambda x: x.gather(-1, torch.arange(5).expand(3, 1, 5))[:, -1],
    ],
)
def test_reading_the_last_position(guarded, read):
    found = read(guarded)
    assert type(found) is torch.Tensor and torch.equal(found, guarded.as_subclass(torch.Tensor)[:, 0])


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x[:, 0],
        lambda x: x[0],
        lambda x: x[:, 3, 1],
        lambda x: x[:, :-1],
        lambda x: x[torch.arange(3), torch.tensor([4, 5, 5])],
        lambda x: x.mean(1),
        lambda x: x.sum(),
        lambda x: x.tolist(),
        lambda x: next(iter(x)),
        lambda x: x.squeeze(1),
        lambda x: x.mean(1, keepdim=True)[:, -1],
        lambda x: x.amax(dim=(1, 2), keepdim=True)[:, -1],
        lambda x: torch.softmax(x, dim=-2)[:, -1],
        lambda x: x.cumsum(1)[:, -1],
        lambda x: x.gather(1, torch.zeros(3, 1, 5, dtype=torch.long))[:, -1],
    ],
)
def test_reading_anything_else_is_refused(guarded, read):
    with pytest.raises(IndexError, match='logits="all"'):
        read(guarded)


def test_the_last_position_through_functions_that_keep_it(guarded):
    plain = guarded.as_subclass(torch.Tensor)
    assert torch.equal(guarded.log_softmax(-1)[:, -1, 2], plain.log_softmax(-1)[:, 0, 2])
    assert torch.equal(torch.softmax(guarded, dim=-1).argmax(-1)[:, -1], plain.argmax(-1)[:, 0])
    assert guarded.shape == (3, 1, 5) and guarded.shape[-1] == 5 and "tensor" in repr(guarded[:, -1])
