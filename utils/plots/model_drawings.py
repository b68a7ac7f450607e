"""Drawings of a transformer: its residual stream, one attention head, and how its activations are read and changed."""

from __future__ import annotations

from utils.plots.drawings import BLUE, GRAY, RED, Drawing, arrow, box, text


def residual_stream_drawing() -> Drawing:
    """Three positions of a prompt, the residual stream of each, and what reads from and writes to the last one."""
    body = []
    for x, word in ((110, "John"), (260, "gave"), (410, "to")):
        body += [arrow([(x, 420), (x, 76)], GRAY, 5), box(x, 436, f"embedding of '{word}'", "frozen", 136)]
    for y, layer in ((360, "0"), (210, "1")):
        body.append(box(570, y, f"attention of layer {layer}", "sender", 150))
        body.append(box(570, y - 70, f"MLP of layer {layer}", "receiver", 150))
        for x in (110, 260):  # only attention reads other positions
            body.append(arrow([(x, y + 22), (492, y + 6)], RED, 1.2))
        body += [arrow([(410, y + 22), (492, y + 10)], RED), arrow([(493, y - 8), (418, y - 18)], RED, 2.4)]
        body += [arrow([(410, y - 50), (492, y - 66)], BLUE), arrow([(493, y - 78), (418, y - 88)], BLUE, 2.4)]
    body += [text(664, 350, "reads every position so far,\nadds what it found", 12, "start")]
    body += [text(664, 280, "reads this position only,\nadds what it made of it", 12, "start")]
    body += [box(410, 60, "final norm", "frozen", 96), arrow([(460, 60), (508, 60)])]
    body += [box(560, 60, "unembedding", "frozen", 102), arrow([(612, 60), (660, 60)])]
    body.append(text(668, 65, "logits: a score for every next token", 12, "start"))
    body.append(text(300, 112, "… more layers …", 12))
    body.append(text(20, 250, "residual\nstreams", 13, "start", "bold"))
    alt = (
        "Three vertical lines are the residual streams at the positions of John, gave and to. Each begins with the "
        "embedding of its token. In every layer, attention reads the streams of all positions so far and adds its "
        "output to the stream; then the MLP reads the stream at its own position only and adds its output. At the top "
        "the stream at the last position goes through the final norm and the unembedding and becomes logits."
    )
    return Drawing("".join(body), 900, 465, alt)


def head_drawing() -> Drawing:
    """One attention head at the last position: the query asks, the keys answer, the values are passed on."""
    body, weights = [], {"Mary": 0.1, "shops": 0.1, "John": 0.7, "to": 0.1}
    for i, (word, weight) in enumerate(weights.items()):
        x = 90 + 130 * i
        body += [box(x, 350, f"stream at '{word}'", "frozen", 116), arrow([(x - 24, 334), (x - 24, 276)], GRAY)]
        body += [box(x - 24, 262, "key", "receiver", 44, 24), arrow([(x + 26, 334), (x + 26, 236)], GRAY)]
        body += [
            box(x + 26, 222, "value", "sender", 52, 24),
            arrow([(x - 24, 248), (x - 24, 176)], BLUE, 1 + 5 * weight),
        ]
        body += [arrow([(x + 26, 208), (x + 26, 128), (556, 108)], RED, 1 + 5 * weight)]
        body.append(text(x - 24, 168, f"{weight:.1f}", 13, weight="bold"))
    body += [
        arrow([(480, 366), (480, 392), (620, 392), (620, 316)], GRAY),
        box(620, 300, "query of 'to'", "computed", 104, 26),
    ]
    body.append(text(682, 292, "1. What am I looking for?\nThe query is compared\nwith every key.", 12, "start"))
    body.append(
        text(682, 184, "2. How much from where?\nSoftmax makes the scores\nadd up to 1: the pattern.", 12, "start")
    )
    body.append(arrow([(620, 286), (620, 172), (520, 164)], BLUE))
    body += [box(600, 106, "z", "computed", 74), arrow([(600, 90), (600, 62)]), box(600, 46, "W_O", "computed", 74)]
    body.append(text(682, 92, "3. What is passed on?\nThe values, mixed in these\nproportions, are z.", 12, "start"))
    body += [arrow([(562, 46), (500, 46)]), text(490, 51, "added to the stream at 'to'", 12, "end")]
    alt = (
        "One attention head at the position of the word to. Each position offers a key and a value, made from its "
        "residual stream. The query of the last position is compared with all keys, which gives attention weights: "
        "0.1 for Mary, 0.1 for shops, 0.7 for John, 0.1 for the position itself. The values, mixed in these "
        "proportions, are called z. The matrix W_O turns z into what the head adds to the stream at the last "
        "position."
    )
    return Drawing("".join(body), 870, 410, alt)


def hooks_drawing() -> Drawing:
    """A run that is copied into a cache, beside a run in which a function of yours changes one activation."""
    body, names = [], ["resid_pre", "z", "attn_out", "mlp_out"]
    for left, title in (
        (20, "run_with_cache: every activation is copied"),
        (460, "run_with_hooks: one activation is changed"),
    ):
        body.append(text(left + 190, 26, title, 14, weight="bold"))
        body += [box(left + 70, 296, "tokens", "frozen", 100), box(left + 70, 52, "logits", "frozen", 100)]
        for i, name in enumerate(names):
            y = 250 - 48 * i
            body += [arrow([(left + 70, y + 32), (left + 70, y + 15)]), box(left + 70, y, name, "computed", 100)]
            if left == 20:
                body += [
                    arrow([(left + 122, y), (left + 226, y)], BLUE),
                    text(left + 236, y + 4, f'cache["{name}", 0]', 12, "start"),
                ]
        body.append(arrow([(left + 70, 90), (left + 70, 68)]))
    body += [box(710, 202, "your function", "sender", 116), arrow([(582, 196), (650, 196)], RED, 2)]
    body += [arrow([(710, 186), (710, 172), (534, 172)], RED, 2)]
    body.append(text(650, 238, "gets z, and returns\nwhat is used in its place", 12, "start"))
    alt = (
        "Two runs of the model, each from tokens at the bottom through resid_pre, z, attn_out and mlp_out to the "
        "logits on top. On the left, run_with_cache copies each activation into the cache on the way. On the right, "
        "run_with_hooks hands z to your function, and what the function returns goes on in its place, so everything "
        "after it changes."
    )
    return Drawing("".join(body), 900, 325, alt)
