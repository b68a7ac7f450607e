"""The criteria of a circuit, its graph and drawing, and predictions about it."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checks.predicting import score_predictions
from utils import plots
from utils.circuits import criteria
from utils.circuits.graph import Edge, node_name, strongest_edges
from utils.ioi import SIGNALS, ioi_dataset, single_token_names
from utils.tiny_models import tiny_model

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
