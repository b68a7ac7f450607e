"""Running circuits: the two ends are the two runs, criteria obey their definitions, and figures draw what they are given."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checks.predicting import score_predictions
from tests.zoo import zoo_model
from utils import plots
from utils.attribution import logit_diff
from utils.circuits import criteria, evaluate
from utils.circuits.graph import Edge, node_name, strongest_edges
from utils.circuits.kept_positions import KeptPositions
from utils.ioi import SIGNALS, ioi_dataset, single_token_names
from utils.tiny_models import tiny_model


@pytest.fixture(scope="module")
def circuit_tests():
    """One for each fixture, made once."""
    return {family: evaluate.circuit_test(ioi_dataset(tiny_model(family), 48), 24) for family in ("gpt2", "llama")}


def z_of(model, tokens, mask):
    _, cache = model.run_with_cache(tokens, attention_mask=mask)
    return torch.stack([cache["z", layer] for layer in range(model.cfg.n_layers)])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_all_heads_kept_is_the_model(circuit_tests, family):
    test = circuit_tests[family]
    logits = test.model(test.pairs.clean_tokens, attention_mask=test.pairs.clean_mask)
    expected = logit_diff(logits, test.pairs.answer_tokens, per_prompt=True, last=test.pairs.clean_last)
    torch.testing.assert_close(test.full, expected, atol=1e-4, rtol=0)
    found = evaluate.faithfulness(test.full, test.full, test.empty)
    assert (found.value, found.low, found.high, found.mae) == (1, 1, 1, 0) and found.correlation == pytest.approx(1)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_head_kept_and_templates_of_one_is_the_twins_z_everywhere(family):
    model = tiny_model(family)
    pairs = ioi_dataset(model, 12).pairs("ABC")
    z = z_of(model, pairs.corrupted_tokens, pairs.corrupted_mask)
    means = evaluate.means_by_template(z, torch.arange(12))
    torch.testing.assert_close(means, z)
    nothing = torch.zeros(z.shape[:4], dtype=torch.bool)
    found = evaluate.run_circuit(model, pairs.clean_tokens, nothing, means, pairs.clean_mask)[:, 0]
    hooks = [
        (f"blocks.{layer}.attn.hook_z", lambda x, hook: z[int(hook.name.split(".")[1])])
        for layer in range(model.cfg.n_layers)
    ]
    whole = model.run_with_hooks(pairs.clean_tokens, fwd_hooks=hooks, attention_mask=pairs.clean_mask)
    torch.testing.assert_close(found, whole[torch.arange(12), pairs.clean_last], atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_what_is_kept_and_what_is_taken_away_are_two_sides_of_a_mask(circuit_tests, family, seed):
    test, generator = circuit_tests[family], np.random.default_rng(seed)
    heads = [("S2", (int(generator.integers(3)), int(generator.integers(4)))) for _ in range(3)]
    heads += [("END", (int(generator.integers(3)), int(generator.integers(4)))) for _ in range(3)]
    circuit = criteria.as_circuit(heads)
    mask = evaluate.keep_mask(circuit, test.roles, test.shape)
    assert int(mask.sum()) == 24 * len(set(heads))
    torch.testing.assert_close(test.scores(circuit), test.scores_of_mask(mask))
    torch.testing.assert_close(test.scores_without(circuit), test.scores_of_mask(~mask))
    padded = torch.arange(test.shape[2]) > test.pairs.clean_last[:, None]
    assert not (mask & padded[None, :, :, None]).any(), "padding is never kept"


# --- the positions at which something is kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.1, 0.3]), whole=st.booleans())
def test_computing_some_positions_gives_the_whole_run(circuit_tests, family, seed, share, whole):
    """Any mask: other positions in every prompt, more of them in some than in others, padding left out.

    Beside the empty circuit some heads are kept; beside the whole model some have another z, their mean or any other.
    """
    test, generator = circuit_tests[family], torch.Generator().manual_seed(seed)
    real = test.pairs.clean_mask.bool()
    at = (torch.rand(test.shape[1:3], generator=generator) < share) & real
    chosen = (torch.rand(test.shape, generator=generator) < 0.5) & at[None, :, :, None]
    mask, z = (~chosen, torch.randn(test.means.shape, generator=generator)) if whole else (chosen, None)
    few = KeptPositions(test.model, test.pairs.clean_tokens, test.means, real, whole)
    for instead in (None, z):
        z_there = test.means if instead is None else instead
        by_hooks = evaluate.run_circuit(test.model, test.pairs.clean_tokens, mask, z_there, test.pairs.clean_mask)
        torch.testing.assert_close(few.logits(mask, instead), by_hooks, atol=1e-4, rtol=1e-4)
    first = torch.where(at.any(1), at.long().argmax(1), few.last)
    assert few.where(mask).shape[1] <= (1 + int((few.last - first).max()) if whole else 1 + int(at.sum(1).max()))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_small_circuit_runs_a_part_of_the_positions(family, monkeypatch):
    """And the numbers are those of the whole run; the model as it is has no such shortcut."""
    test = evaluate.circuit_test(ioi_dataset(tiny_model(family), 48), 24)
    circuit = {"S1+1": [(0, 1)], "S2": [(1, 2)], "END": [(2, 0), (2, 3)]}
    mask = evaluate.keep_mask(circuit, test.roles, test.shape)
    whole = test._by_hooks(mask)
    torch.testing.assert_close(test.scores(circuit), whole, atol=2e-5, rtol=1e-4)
    assert not torch.allclose(whole, test.empty, atol=1e-3) and not torch.allclose(whole, test.full, atol=1e-3)
    runs, everywhere = [], torch.zeros(test.shape, dtype=torch.bool)
    everywhere[0, :, :, 0] = True
    monkeypatch.setattr(evaluate, "run_circuit", lambda *a: runs.append(a) or pytest.fail("a whole run"))
    assert len(test.scores(circuit)) == len(test.scores_without({"END": [(2, 0)]})) == 24 and not runs
    with pytest.raises(pytest.fail.Exception):
        test.scores_of_mask(everywhere)  # heads at so many positions that an ordinary run is as fast


@pytest.mark.parametrize("change", ["weight", "hook"])
def test_a_changed_model_is_run_whole(change):
    """What is computed once holds for the weights that it was computed with, and for a model with no hooks on it."""
    model = tiny_model("llama", 3, 5)
    test = evaluate.circuit_test(ioi_dataset(model, 48), 24)
    circuit = {"S2": [(1, 2)], "END": [(2, 0), (2, 3)]}
    before, mask = test.scores(circuit), evaluate.keep_mask(circuit, test.roles, test.shape)
    name = "blocks.1.hook_mlp_out"
    weight = model.blocks[1].mlp.out.original_component.weight
    kept = weight.detach().clone()
    try:
        if change == "weight":
            weight.mul_(0)
        else:
            model.add_hook(name, lambda out, hook: torch.zeros_like(out))
        after = test.scores(circuit)
        torch.testing.assert_close(after, test._by_hooks(mask))
        assert not torch.allclose(after, before, atol=1e-4)
    finally:
        weight.copy_(kept)
        model.reset_hooks()


@pytest.mark.parametrize("name", ["sliding window", "own hooks"])
def test_a_model_that_cannot_be_taken_apart_is_run_whole(name):
    model = zoo_model(name)
    test = evaluate.circuit_test(ioi_dataset(model, 48), 24)
    circuit = {"S2": [(1, 2)], "END": [(2, 0), (2, 3)]}
    mask = evaluate.keep_mask(circuit, test.roles, test.shape)
    torch.testing.assert_close(test.scores(circuit), test._by_hooks(mask), atol=2e-5, rtol=1e-4)


def test_empty_circuit_is_not_faithful_and_is_not_constant(circuit_tests):
    test = circuit_tests["gpt2"]
    found = evaluate.faithfulness(test.full, test.empty, test.empty)
    assert (found.value, found.low, found.high) == (0, 0, 0) and found.mae > 0
    assert test.empty.std() > 0


def test_faithfulness_interval_holds_the_value_and_a_constant_has_no_correlation():
    full, empty = torch.randn(30, generator=torch.Generator().manual_seed(0)) + 3, torch.zeros(30)
    found = evaluate.faithfulness(full, 0.5 * full, empty)
    assert found.value == pytest.approx(0.5) and found.low <= 0.5 <= found.high
    assert np.isnan(evaluate.faithfulness(full, torch.ones(30), empty).correlation)
    with pytest.raises(ValueError, match="there is nothing to explain"):
        evaluate.faithfulness(full, full, full)


def test_small_data_sets_and_wrong_sizes_are_refused():
    model = tiny_model("gpt2")
    with pytest.raises(ValueError, match="12 templates have one prompt"):
        evaluate.circuit_test(ioi_dataset(model, 12))
    with pytest.raises(ValueError, match="n=25: the data set has 24 prompts"):
        evaluate.circuit_test(ioi_dataset(model, 24), 25)
    with pytest.raises(KeyError, match="'S3'"):
        evaluate.keep_mask({"S3": [(0, 0)]}, {"S2": torch.tensor([1])}, (1, 1, 2, 1))


# --- criteria ---------------------------------------------------------------------------------------------------------

CIRCUIT = {"END": [(2, 1), (2, 3), (1, 0)], "S2": [(1, 2), (0, 3), (1, 0)], "S1+1": [(0, 0), (0, 1)]}


def test_greedy_set_is_bounded_by_all_subsets(circuit_tests):
    test, circuit = circuit_tests["llama"].first(6), {**CIRCUIT, "S2": [(1, 2)]}
    heads = criteria.placed(circuit)
    in_circuit, in_model = criteria.scorers(test, circuit)
    memory = {}

    def remembered(score):
        return lambda removed: memory.setdefault((score, frozenset(removed)), score(removed))

    of_circuit, of_model = remembered(in_circuit), remembered(in_model)
    subsets = itertools.chain.from_iterable(itertools.combinations(heads, size) for size in range(len(heads) + 1))
    every = {frozenset(removed): abs(of_circuit(removed) - of_model(removed)) for removed in subsets}
    assert len(every) == 2**6
    for k, n in ((6, 6), (3, 4)):
        removed, distance = criteria.greedy_incompleteness(heads, of_circuit, of_model, k, n)
        assert distance == pytest.approx(every[frozenset(removed)]) and every[frozenset()] <= distance <= max(
            every.values()
        )
    removed, _ = criteria.greedy_incompleteness(heads, of_circuit, of_model, 6, 1)
    singles = {head: every[frozenset([head])] for head in heads}
    assert removed in ([], [max(singles, key=singles.get)])


def test_minimality_along_a_chain_adds_up(circuit_tests):
    """Removing heads one after the other, the signed changes add up to the whole fall."""
    test, heads = circuit_tests["gpt2"], criteria.placed(CIRCUIT)
    in_circuit, _ = criteria.scorers(test, CIRCUIT)
    together = {head: heads[:i] for i, head in enumerate(heads)}
    changes = criteria.minimality(in_circuit, heads, together)
    assert sum(changes.values()) == pytest.approx(in_circuit(heads) - in_circuit([]), abs=1e-4)
    assert in_circuit(heads) == pytest.approx(float(test.empty.mean()), abs=1e-5)
    assert min(changes.values()) < 0 < max(changes.values()), "the sign is kept"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), within=st.integers(1, 2), kept=st.sampled_from([(), ((2, 1),), ((1, 0), (0, 0))]))
def test_random_circuits_match_and_stay_apart(seed, within, kept):
    for drawn in criteria.random_circuits(CIRCUIT, 5, 4, 6, within, keep=kept, never=[(2, 0)], seed=seed):
        assert {role: len(heads) for role, heads in drawn.items()} == {
            role: len(heads) for role, heads in CIRCUIT.items()
        }
        for role, heads in drawn.items():
            stay = [head for head in CIRCUIT[role] if head in kept]
            new = heads[len(stay) :]
            assert len(set(heads)) == len(heads) and not set(new) & {*CIRCUIT[role], (2, 0)}
            assert heads[: len(stay)] == stay


def test_random_circuits_say_where_too_few_heads_are_near():
    with pytest.raises(ValueError, match="no head is left within 0 layers of L1H0"):
        list(criteria.random_circuits({"END": [(1, 0), (1, 1)]}, 1, 3, 2, within=0))


@pytest.mark.parametrize("sign", [1, -1])
def test_planted_copier_scores_one(sign):
    """A head whose value and output maps send each name's stream to its own unembedding, or to the opposite of it."""
    model = tiny_model("llama", seed=11)
    names = torch.tensor([model.to_single_token(f" {name}") for name in single_token_names(model)[:6]])
    tokens = torch.stack([torch.full_like(names, model.tokenizer.bos_token_id), names], 1)
    stream = model.run_with_cache(tokens)[1]["resid_post", 0][:, 1:]
    seen = model.blocks[2].ln1(stream)[:, 0]  # name d_model
    values, outputs = (getattr(model.blocks[2].attn, part).original_component.weight for part in ("v", "o"))
    kept, d_head = [values.clone(), outputs.clone()], model.cfg.d_head
    with torch.no_grad():
        values[:d_head] = 0
        values[: len(names)] = torch.linalg.pinv(seen).T  # key/value head 0: name i becomes unit vector i
        outputs[:, :d_head] = 0
        outputs[:, : len(names)] = sign * 50 * model.W_U[:, names]  # query head 0
    scores = criteria.copy_scores(model, names, k=1)
    with torch.no_grad():
        values.copy_(kept[0])
        outputs.copy_(kept[1])
    assert scores[0 if sign == 1 else 1, 2, 0] == 1 and scores[1 if sign == 1 else 0, 2, 0] == 0


def test_flip_begins_with_the_model_and_strengths_fit(circuit_tests):
    """The first cell is the model, all six differ, and the strengths of an additive table are exact."""
    test = circuit_tests["gpt2"]
    data = ioi_dataset(test.model, 48)
    tokens = {
        signal: test.pairs.clean_tokens if name is None else data.pairs(name)[:24].corrupted_tokens
        for signal, name in SIGNALS.items()
    }
    circuits = [{"END": [(2, 0), (1, 3)]}, {"S2": [(0, 1)], "END": [(2, 0)]}]
    scores, other = criteria.flip_signals(test, tokens, circuits)
    assert torch.equal(other, criteria.flip_signals(test, tokens, circuits[1:])[0])  # each as if it were alone
    assert scores.shape == (3, 2) and scores[0, 0] == pytest.approx(float(test.full.mean()), abs=1e-4)
    assert len(scores.flatten().unique()) == 6
    token, position = torch.tensor([1.0, 0.0, -1.0])[:, None], torch.tensor([1.0, -1.0])
    assert criteria.signal_strengths(2 + 0.3 * token - 1.2 * position) == pytest.approx((0.3, -1.2))


# --- graph, drawing, predictions ----------------------------------------------------------------------------------------


def test_graph_draws_every_edge_where_its_ends_stand():
    edges = [
        Edge((0, 1), "S1+1", (1, 2), "S2", 0.3, "k"),
        Edge((1, 2), "S2", (2, 0), "END", 0.2, "v"),
        Edge((2, 0), "END", "logits", "END", -0.4),
        Edge((0, "mlp"), "S2", (2, 0), "END", 0.1, "q"),
    ]
    figure = plots.graph(edges, ["S1+1", "S2", "END"], "A circuit")
    shown = [text for trace in figure.data for text in np.atleast_1d(trace.hovertext) if text]
    assert {str(edge) for edge in edges} <= {text.rsplit(":", 1)[0] for text in shown}
    boxes = {a.text: (a.x, a.y) for a in figure.layout.annotations if a.text}
    assert set(boxes) == {"L0H1", "L1H2", "L2H0", "MLP 0", "logits"}
    assert boxes["L0H1"][0] < boxes["L1H2"][0] < boxes["L2H0"][0] and boxes["L0H1"][1] == boxes["MLP 0"][1] == 1
    lines = [trace for trace in figure.data if trace.mode == "lines" and trace.x[0] is not None]
    assert [trace.line.color for trace in lines] == ["firebrick", "firebrick", "royalblue", "firebrick"]
    assert max(lines, key=lambda trace: trace.line.width) is lines[2] and lines[0].line.dash == "dot"


def test_graph_and_edges_refuse_what_makes_no_sense():
    edge = Edge((0, 1), "END", "logits", "END", 0.3)
    with pytest.raises(ValueError, match="a role of L0H1 at END → logits"):
        plots.graph([edge], ["S2"], "t")
    with pytest.raises(ValueError, match="0 edges"):
        plots.graph([], ["S2"], "t")
    with pytest.raises(ValueError, match="component='q' of 'logits'"):
        Edge((0, 1), "END", "logits", "END", 0.3, "q")


def test_strongest_edges_keep_either_sign_above_the_threshold():
    effects = torch.tensor([[0.1, -0.3], [0.01, 0.05]])
    found = strongest_edges(effects, "END", "logits", "END", least=0.05)
    assert [(edge.sender, round(edge.effect, 2)) for edge in found] == [((0, 1), -0.3), ((0, 0), 0.1), ((1, 1), 0.05)]
    assert node_name((3, "mlp")) == "MLP 3" and node_name((3, 1)) == "L3H1"


def test_predictions_are_scored_and_never_fail(capsys):
    score_predictions({"a": "l9h9 ", "b": None, "c": "L1H1", "z": 1}, {"a": "L9H9", "b": "nobody", "c": "L2H2"})
    lines = capsys.readouterr().out.splitlines()
    assert [line[0] for line in lines] == ["✓", "·", "✗", "?", "1"]
    assert "nothing was asked under this name" in lines[3] and lines[4].startswith("1 of 3 right")
