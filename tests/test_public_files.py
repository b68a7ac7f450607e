"""Whole files of the two public formats are read."""

from pathlib import Path

import pytest
import torch

from tests.tracing_cases import F_WORDS, FRAME, U_WORDS, answers, residual_sweep
from utils import dialect, stats
from utils.dialect import DialectError, Pair, tracing
from utils.inference import end_logits


def pairs_file(path: Path) -> Path:
    """699 pairs with what public files hold: no final newline, curly apostrophes, sides of different lengths."""
    verbs = [forms[3] for forms in dialect.grammar()["verbs"].values()]
    lines = [
        f"{p} {a}\t{p}{b}"
        for v in verbs
        for p in ("he", "she", "they")
        for a, b in (
            (f"be {v}", f"’s usually {v}"),
            (f"be {v} now", f"'s usually {v} now"),
            (f"done {v}", f" has {v}"),
            (f"be out {v}", f" is out {v}"),
            (f"be {v} too", f" is {v} too"),
            (f"stay {v}", f" keeps {v}"),
            (f"been {v}", f"’s been {v}"),
        )
    ]
    path.write_text("\n".join(lines[:699]), encoding="utf-8")
    return path


def test_a_pairs_file_of_699_lines_through_gap_and_patching(tmp_path, model):
    pairs = dialect.read_pairs(pairs_file(tmp_path / "pairs.txt"))
    assert len(pairs) == 699 and not any("’" in pair.sae for pair in pairs)
    gaps = dialect.trait_gaps(model, pairs, [FRAME], U_WORDS, F_WORDS, progress=False)
    assert gaps.shape == (699, 1) and torch.isfinite(gaps).all()
    one = pairs[500]
    alone = dialect.trait_gaps(model, [one], [FRAME], U_WORDS, F_WORDS)
    assert gaps[500, 0] == pytest.approx(alone.item(), abs=1e-4)
    low, high = stats.bootstrap_interval(gaps[:, 0], [pair.cluster for pair in pairs])
    assert low <= gaps.mean() <= high
    aligned = dialect.aligned_pairs(model, pairs, FRAME)
    assert 0 < len(aligned) < 699
    batch = tracing.guise_batch(model, pairs, FRAME, n=6)
    assert residual_sweep(model, batch)[0, batch.position] == pytest.approx(
        1, abs=1e-3
    )  # in units of a small difference


def test_a_dataset_of_315_rows_through_gap_and_patching(tmp_path, model):
    lines = [",".join(dialect.COLUMNS)]
    for i in range(315):
        pair = [*dialect.pairs_of("done"), *dialect.pairs_of("be_usually")][i % 70]
        texts = [FRAME.format(side).replace("'", "’" if i % 5 == 0 else "'") for side in (pair.aae, pair.sae)]
        quoted = ['"' + text.replace('"', '""') + f" {'too ' * (i // 70)}" + '"' for text in texts]
        lines.append(f"{quoted[0]},{quoted[1]},lazy,kind,{i / 7:.3f},{-i / 9:.3f}")
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    rows = dialect.read_dataset(path, model)
    assert len(rows) == 315
    prompts = [row.prompt_aae for row in rows] + [row.prompt_sae for row in rows]
    logits = end_logits(model, prompts, torch.cat(answers(model)), progress=False)
    values = dialect.preference(logits, [*U_WORDS, *F_WORDS], U_WORDS, F_WORDS)
    gaps = values[:315] - values[315:]
    assert torch.isfinite(gaps).all()
    pairs = [Pair(row.prompt_aae, row.prompt_sae) for row in rows]
    batch = tracing.guise_batch(model, pairs, "{}", n=5)
    assert residual_sweep(model, batch)[0, batch.position] == pytest.approx(1, abs=1e-4)
    assert [row for row in rows if len(dialect.aligned_pairs(model, [Pair(row.prompt_aae, row.prompt_sae)])) == 0]
    with pytest.raises(DialectError, match=r"tokens in tiny-"):
        dialect.read_dataset(path, model, aligned=True)
