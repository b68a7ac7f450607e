"""The pairs of a report as the methods need them: which can be patched, which find the circuit, and which test it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformer_lens.model_bridge import TransformerBridge

from utils.circuits.report.pairs_csv import PairRow
from utils.circuits.report.stored import ReportSettings
from utils.prompts import PromptPairs, make_pairs, token_row

MIN_ALIGNED = 8
Shape = tuple[str, int, tuple[int, ...]]  # template, number of tokens, positions that differ


@dataclass(frozen=True, eq=False)
class ReportTask:
    """The rows of a file, tokenized for one model.

    shapes: of each row whose sides have equally many tokens; None where they do not, so that nothing can be patched.
    """

    model: TransformerBridge
    rows: Sequence[PairRow]
    settings: ReportSettings
    max_memory: float

    @cached_property
    def shapes(self) -> list[Shape | None]:
        return [_shape(self.model, row) for row in self.rows]

    @cached_property
    def aligned(self) -> list[int]:
        """The rows that can be patched."""
        return [i for i, shape in enumerate(self.shapes) if shape is not None]

    @cached_property
    def halves(self) -> tuple[list[int], list[int]]:
        """Rows that find the circuit, and rows that test it: of each shape every other one, evenly over shapes.

        Shapes with a single row come to the first half only: the second replaces by means over a shape's rows.
        """
        by_shape: dict[Shape, list[int]] = defaultdict(list)
        for i in self.aligned:
            by_shape[self.shapes[i]].append(i)
        found = [rows[::2] for rows in by_shape.values()]
        tested = [rows[1::2] for rows in by_shape.values()]
        return _evenly(found, self.settings.pairs), _evenly(tested, self.settings.test_pairs)

    @property
    def can_patch(self) -> bool:
        return len(self.aligned) >= MIN_ALIGNED and min(map(len, self.halves)) >= MIN_ALIGNED // 2

    def pairs_of(self, rows: Sequence[int]) -> PromptPairs:
        """These rows, whatever their lengths."""
        some = [self.rows[i] for i in rows]
        return make_pairs(
            self.model,
            [row.clean for row in some],
            [row.corrupted for row in some],
            [(row.answer, row.wrong) for row in some],
            aligned=False,
            names=[f"line {row.line}" for row in some],
        )

    def batches(self) -> list[list[int]]:
        """All rows, shortest first, in batches whose cached activations fit into `max_memory`."""
        lengths = {
            i: max(len(token_row(self.model, side)) for side in (row.clean, row.corrupted))
            for i, row in enumerate(self.rows)
        }
        order = sorted(lengths, key=lambda i: (lengths[i], i))
        cfg = self.model.cfg
        widths = 6 * cfg.d_model + 4 * cfg.n_heads * cfg.d_head
        batches: list[list[int]] = []
        for i in order:
            each = 4 * cfg.n_layers * lengths[i] * (widths + cfg.n_heads * lengths[i])
            room = max(1, math.floor(self.max_memory / each))
            if batches and len(batches[-1]) < room:
                batches[-1].append(i)
            else:
                batches.append([i])
        return batches

    def largest_shape(self, rows: Sequence[int]) -> list[int]:
        """Those of the rows that have the commonest length and differing positions, whatever their template."""
        counts: dict[tuple, list[int]] = defaultdict(list)
        for i in rows:
            counts[self.shapes[i][1:]].append(i)
        return max(counts.values(), key=len)


def _shape(model: TransformerBridge, row: PairRow) -> Shape | None:
    clean, corrupted = token_row(model, row.clean), token_row(model, row.corrupted)
    if len(clean) != len(corrupted):
        return None
    return row.template, len(clean), tuple((clean != corrupted).nonzero()[:, 0].tolist())


def _evenly(groups: Sequence[Sequence[int]], most: int) -> list[int]:
    """At most `most` entries, one from each group in turn, in their order in the file."""
    chosen: list[int] = []
    for turn in range(max(map(len, groups), default=0)):
        chosen += [group[turn] for group in groups if turn < len(group)]
    return sorted(chosen[:most])
