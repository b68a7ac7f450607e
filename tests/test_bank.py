"""utils.dialect.bank: the same numbers as one by one, and nothing is run twice."""

import pytest
import torch

from utils import dialect
from utils.dialect import bank as bank_module
from utils.dialect import measures
from utils.dialect.bank import GuiseBank
from utils.inference import end_logits
from utils.tiny_models import tiny_model

FRAMES = dialect.frames()[:3]


@pytest.fixture
def bank(model, monkeypatch):
    """A bank over a few words, and the prompts that it hands to the model."""
    runs = []

    def counted(*args, **kwargs):
        runs.extend(args[1])
        return end_logits(*args, **kwargs)

    monkeypatch.setattr(bank_module, "end_logits", counted)
    bank = GuiseBank(model, ["lazy", "kind", "rude"])
    bank.runs = runs
    return bank


@pytest.fixture(params=["gpt2", "llama"])
def model(request):
    return tiny_model(request.param)


def test_log_probabilities_are_those_of_unpadded_runs(bank):
    prompts = ["He says he done worked. He is", "She is", "He says he done worked. He is"]
    ids = dialect.attribute_tokens(bank.model, bank.attributes)
    want = torch.stack([bank.model(bank.model.to_tokens(p))[0, -1].log_softmax(-1)[ids] for p in prompts])
    torch.testing.assert_close(bank.log_p(prompts), want, atol=1e-4, rtol=0)
    assert len(bank) == 2


def test_every_prompt_is_run_once_behind_each_prefix(bank):
    pairs = dialect.pairs_of("habitual_be", 2)
    first = bank.log_ratios(pairs, FRAMES)
    n_runs = len(bank.runs)
    assert n_runs == len(set(bank.runs)) == 2 * len(pairs) * len(FRAMES) == len(bank)
    torch.testing.assert_close(bank.log_ratios(pairs, FRAMES), first)
    assert len(bank.runs) == n_runs
    more = bank.log_ratios([*pairs, *dialect.pairs_of("g_dropping", 2)], FRAMES)  # the SAE side is known
    assert len(bank.runs) == n_runs + 2 * len(FRAMES)
    torch.testing.assert_close(more[:2], first)
    bank.log_ratios(pairs, FRAMES, "nothing")
    assert len(bank.runs) == 2 * n_runs + 2 * len(FRAMES)


def test_ratios_are_gaps_before_the_traits_are_averaged(model):
    pairs, (unfavorable, favorable) = dialect.pairs_of("done", 2), (["lazy", "rude"], ["kind"])
    words = [*unfavorable, *favorable]
    ratios = GuiseBank(model, words).log_ratios(pairs, FRAMES)
    want = dialect.trait_gaps(model, pairs, FRAMES, unfavorable, favorable)
    torch.testing.assert_close(dialect.preference(ratios, words, unfavorable, favorable), want, atol=1e-4, rtol=0)


def test_a_prefix_changes_what_stands_in_front_and_is_gone_afterwards(model):
    bank, prompt = GuiseBank(model, ["lazy", "kind"]), "He says he be working. He is"
    before = model.cfg.default_prepend_bos
    nothing = bank.log_p([prompt], "nothing")
    assert model.cfg.default_prepend_bos == before
    ids = dialect.attribute_tokens(model, ["lazy", "kind"])
    want = model(model.to_tokens(prompt, prepend_bos=False))[:, -1].log_softmax(-1)[:, ids]
    torch.testing.assert_close(nothing, want, atol=1e-4, rtol=0)
    assert (bank.log_p([prompt]) - nothing).abs().max() > 1e-3


def test_groups_in_one_go_are_the_groups_one_by_one(bank):
    groups = {"done": dialect.pairs_of("done", 3), "was": dialect.pairs_of("was", 1)}
    together = bank.log_ratios_by_name(groups, FRAMES)
    assert {name: tuple(found.shape) for name, found in together.items()} == {"done": (3, 3, 3), "was": (1, 3, 3)}
    for name, pairs in groups.items():
        torch.testing.assert_close(together[name], bank.log_ratios(pairs, FRAMES))


def test_braces_in_a_guise_are_text(bank):
    pair = dialect.Pair("he said {} and {x}", "he said it")
    assert bank.log_ratios([pair], FRAMES).shape == (1, 3, 3)
    assert any("{x}" in run for run in bank.runs)


def test_the_default_attributes_are_the_traits_that_the_measures_expect(smollm2):
    bank = GuiseBank(smollm2)
    assert bank.attributes == list(dialect.favorability())
    ratios = bank.log_ratios(dialect.pairs_of("be_usually", 1), FRAMES[:1])
    gap = dialect.trait_gaps(smollm2, dialect.pairs_of("be_usually", 1), FRAMES[:1])
    torch.testing.assert_close(measures.gap(ratios), gap.cpu(), atol=1e-4, rtol=0)
