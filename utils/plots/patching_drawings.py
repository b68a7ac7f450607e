"""Drawings of experiments with two runs: a patch, what it tells of three kinds of circuits, a path, a published circuit."""

from __future__ import annotations

from utils.models import DEFAULT_PUBLISHED
from utils.plots.drawings import BLUE, COLORS, GRAY, INK, RED, Drawing, arrow, box, text
from utils.reference import figures


def patching_drawing() -> Drawing:
    """The clean and the corrupted run as two grids of residual streams, and one cell that is carried over."""
    words, body = ["John", "and", "Mary", "…", "", "gave", "…", "to"], []
    for left, title, name in ((30, "clean run (lends)", "John"), (490, "corrupted run (receives)", "Mary")):
        receives = left > 100
        body.append(text(left + 190, 24, title, 14, weight="bold"))
        for column, word in enumerate(words):
            x = left + 24 + 48 * column
            body.append(text(x, 268, word or name, 12, weight="normal" if word else "bold"))
            for row in range(4):
                behind = receives and column >= 4 and row > 1
                kind = "sender" if (column, row) == (4, 1) else "changed" if behind else "frozen"
                body.append(box(x, 236 - 48 * row, "", kind, 38, 34))
        body.append(text(left + 360, 52, "logits", 12))
        body.append(arrow([(left + 360, 74), (left + 360, 58)]))
    body.append(arrow([(246, 171), (246, 164), (706, 164), (706, 171)], RED, 3))
    body.append(text(452, 156, "patch", 13, weight="bold"))
    body += [box(110, 312, "", "frozen", 30, 20), text(132, 316, "as it was in this run", 12, "start")]
    body += [box(330, 312, "", "sender", 30, 20), text(352, 316, "the patched activation", 12, "start")]
    body += [box(560, 312, "", "changed", 30, 20), text(582, 316, "computed again, and may change", 12, "start")]
    alt = (
        "Two grids, one for the clean and one for the corrupted run: positions from left to right, layers from bottom "
        "to top. The runs differ in one word. One cell of the clean run, at that word's position, is carried into the "
        "same place of the corrupted run. Only cells in later layers, at that position and to its right, are computed "
        "again and may change; all other cells stay as they were in the corrupted run."
    )
    return Drawing("".join(body), 900, 330, alt)


def gates_drawing() -> Drawing:
    """A chain, two stand-ins (OR) and two partners (AND), and what denoising and noising one head shows of each."""
    body = []
    for left, title, joined in ((20, "Chain", ""), (320, "Stand-ins (OR)", "or"), (620, "Partners (AND)", "and")):
        body.append(text(left + 130, 24, title, 15, weight="bold"))
        body.append(box(left + 210, 110, "answer", "frozen", 80))
        body.append(box(left + 40, 70 if joined else 110, "head A", "sender", 70))
        if joined:
            body += [box(left + 40, 150, "head B", "computed", 70), box(left + 126, 110, joined, "changed", 44)]
            body += [arrow([(left + 76, y), (left + 104, 110 + dy)]) for y, dy in ((74, -6), (146, 6))]
            body.append(arrow([(left + 149, 110), (left + 169, 110)]))
        else:
            body += [box(left + 126, 110, "head B", "computed", 60), arrow([(left + 76, 110), (left + 95, 110)])]
            body.append(arrow([(left + 157, 110), (left + 169, 110)]))
    rows = [
        ("Only A is clean (denoising). Is the answer back?", ("yes: sufficient", "yes: sufficient", "no")),
        ("Only A is corrupted (noising). Is the answer lost?", ("yes: necessary", "no", "yes: necessary")),
    ]
    for y, (question, answers) in zip((214, 268), rows, strict=True):
        body.append(text(20, y, question, 13, "start", "bold"))
        body += [text(x, y + 22, found, 13) for x, found in zip((150, 450, 750), answers, strict=True)]
    alt = (
        "Three small circuits. In a chain, head A feeds head B, which gives the answer: making only A clean brings "
        "the answer back, and corrupting only A loses it. With stand-ins, A or B is enough: making only A clean "
        "brings the answer back, but corrupting only A does not lose it. With partners, A and B are both needed: "
        "making only A clean does not bring the answer back, and corrupting only A loses it."
    )
    return Drawing("".join(body), 880, 305, alt)


PUBLISHED = [  # what a class is called here and among the published figures, position and height of its box
    ("previous token", "previous_token", 300, 330),
    ("duplicate token", "duplicate_token", 470, 330),
    ("induction", "induction", 470, 250),
    ("S-inhibition", "s_inhibition", 690, 200),
    ("name movers", "name_mover", 620, 110),
    ("negative name movers", "negative_name_mover", 800, 110),
]


def _members(kind: str) -> str:
    """The published heads of a class, in order of layer and head."""
    names = figures(DEFAULT_PUBLISHED)[f"paper.heads.{kind}"]["value"]
    return ", ".join(sorted(names, key=lambda name: [int(part) for part in name[1:].split("H")]))


def published_circuit_drawing() -> Drawing:
    """The circuit of Wang et al. 2022 (figure 2) for gpt2-small: classes of heads, where they act, and who feeds whom."""
    body = []
    for x, role in ((80, "IO"), (190, "S1"), (300, "S1+1"), (470, "S2"), (710, "END")):
        body += [arrow([(x, 382), (x, 60)], "#d5dae1", 4), text(x, 404, role, 14, weight="bold")]
    for name, kind, x, y in PUBLISHED:
        body.append(box(x, y, "", "sender" if name.startswith("negative") else "computed", 156, 44))
        body += [text(x, y - 3, name, 12, weight="bold"), text(x, y + 14, _members(kind), 11)]
    body.append(arrow([(190, 350), (222, 336)], GRAY, 2))  # S1 is read at S1+1
    body.append(arrow([(378, 318), (440, 274)], INK, 2))  # keys of the induction heads
    body.append(arrow([(190, 372), (360, 372), (400, 352)], GRAY, 2))  # duplicate-token heads read S1
    body.append(arrow([(548, 250), (610, 216)], INK, 2))
    body.append(arrow([(548, 322), (650, 224)], INK, 2))
    body += [arrow([(660, 178), (636, 134)], INK, 2), arrow([(730, 178), (780, 134)], INK, 2)]
    body += [arrow([(80, 150), (540, 112)], GRAY, 2), arrow([(620, 88), (690, 52)], RED, 2.4)]
    body += [arrow([(800, 88), (736, 52)], BLUE, 2.4), text(712, 44, "logits", 14, weight="bold")]
    alt = (
        "The circuit that Wang et al. published for gpt2-small. At S1+1, previous-token heads read S1. At S2, "
        "duplicate-token heads read S1, and induction heads read S1+1. Both feed the S-inhibition heads at END, which "
        "steer the queries of the name movers and of the negative name movers at END. These read IO; name movers "
        "raise its logit, negative ones lower it."
    )
    return Drawing("".join(body), 900, 420, alt)


def path_patching_drawing() -> Drawing:
    """The two runs of path patching side by side: what is exchanged, frozen, recorded, and computed again."""
    orange, body = COLORS["receiver"][1], []
    for left, title in ((20, "Run 1: what would the receiver read?"), (400, "Run 2: let the receiver read it")):
        first = left == 20
        stream = left + 60
        body.append(text(left + 160, 24, title, 14, weight="bold"))
        body.append(arrow([(stream, 330), (stream, 60)], GRAY, 3))
        body.append(text(stream, 348, "residual stream", 12))
        rows = [  # height, what stands there, how it is treated in run 1 and in run 2
            (300, "sender", "sender", "computed"),
            (250, "MLP", "frozen", "computed"),
            (200, "other head", "frozen", "computed"),
            (150, "receiver", "receiver", "receiver"),
            (100, "later parts", "frozen", "computed"),
        ]
        for y, words, in_first, in_second in rows:
            body.append(box(left + 190, y, words, in_first if first else in_second, 100))
            body.append(arrow([(left + 140, y - 8), (stream + 4, y - 14)], GRAY))
            body.append(arrow([(stream, y + 12), (left + 138, y + 6)], GRAY))
        if first:
            body.append(arrow([(left + 140, 296), (stream - 10, 286), (stream - 10, 172), (left + 138, 154)], RED, 2.6))
            body.append(text(left + 246, 304, "from the lending run", 11, "start"))
            body.append(text(left + 246, 154, "its input is recorded", 11, "start"))
        else:
            body.append(text(left + 246, 154, "gets the recorded input", 11, "start"))
            body.append(arrow([(left + 140, 140), (stream - 10, 132), (stream - 10, 62)], orange, 2.6))
            body.append(text(stream, 50, "logits", 12))
    body.append(
        box(90, 380, "frozen", "frozen", 70, 22) + text(132, 384, "held at its value in the receiving run", 11, "start")
    )
    body.append(
        box(390, 380, "plain", "computed", 70, 22)
        + text(432, 384, "computed as usual, from what it finds", 11, "start")
    )
    alt = (
        "Two runs of the model side by side. In run 1 the sender's output is taken from the lending run and every "
        "other part is frozen at its value in the receiving run; what the receiver would read is recorded. In run 2 "
        "nothing but the receiver's input is exchanged for the recorded one, and everything after the receiver is "
        "computed again."
    )
    return Drawing("".join(body), 780, 400, alt)
