"""Texts that a tokenizer may get wrong: fuzz of every kind that has its own rule, and strategies of the same parts."""

from __future__ import annotations

import functools
import random
import unicodedata
from pathlib import Path

from hypothesis import strategies as st

REAL_TEXT = Path(__file__).parents[2] / "shared" / "data" / "mini-pythia" / "val.txt"
WHITE_SPACE = [c for c in map(chr, range(0x3001)) if c.isspace()] + ["\u180e", "\u200b", "\u2060", "\ufeff"]
CONTRACTIONS = [
    "'s",
    "'t",
    "'re",
    "'ve",
    "'m",
    "'ll",
    "'d",
    "'S",
    "'T",
    "'RE",
    "'r",
    "'l",
    "'v",
    "''s",
    "’s",
    "'",
    "''",
]
SPECIAL = ["<|endoftext|>", "<|padding|>", "<|endoftext|", "<|endoftext|>>", "<<|padding|>", "<|end", "|>", "<s>"]
HANGUL_JAMO = [*map(chr, range(0x1100, 0x1200)), *map(chr, range(0xA960, 0xA97D)), *map(chr, range(0xD7B0, 0xD7FC))]
SYLLABLES = ["\uac00", "\uac01", "\ud788", "\ud7a3", "\ud55c"]
WORDS = [
    "the",
    "Pythia",
    "oracle",
    "of",
    "Delphi",
    "naïve",
    "Straße",
    "été",
    "tokenizer",
    "don't",
    "I'll",
    "x2",
    "GPT-NeoX",
]
PARAGRAPH = """It was a bright cold day in April, and the clocks
were striking thirteen; she'd said that "we'll see" (twice!).
\tdef encode(text):\n        return [1, 22, 333]  # naïve, 50% – über\r\n\r\n    Ω ≈ 3.14159…
日本語のテキスト、한국어 텍스트。  Привет, мир!  שלום עולם  مرحبا بالعالم
नमस्ते दुनिया  สวัสดีชาวโลก  🤖\U0001f469\u200d\U0001f469\u200d\U0001f467🇬🇷
"""


@functools.cache
def _code_points_by_kind() -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {
        "digits": [],
        "marks": [],
        "decomposable": [],
        "controls": [],
        "letters": [],
        "assigned": [],
    }
    for c in map(chr, range(0x110000)):
        category = unicodedata.category(c)
        if category == "Cs":
            continue
        if category[0] == "N":
            kinds["digits"].append(c)
        if category[0] == "M":
            kinds["marks"].append(c)
        if unicodedata.decomposition(c):
            kinds["decomposable"].append(c)
        if category in ("Cc", "Cf"):
            kinds["controls"].append(c)
        if category[0] == "L":
            kinds["letters"].append(c)
        if category not in ("Cn", "Co"):
            kinds["assigned"].append(c)
    return kinds


def code_points(kind: str) -> list[str]:
    """Characters of one kind: digits, marks, decomposable, controls, letters, assigned."""
    return _code_points_by_kind()[kind]


def any_code_point(rng: random.Random) -> str:
    """One of any plane, assigned or not."""
    while True:
        plane = rng.choice([0, 0, 0, 1, 1, 2, 3, rng.randrange(17)])
        c = plane << 16 | rng.randrange(1 << 16)
        if not 0xD800 <= c <= 0xDFFF:
            return chr(c)


def _run(rng: random.Random, pool: list[str], longest: int) -> str:
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, longest)))


def _marks_on_letters(rng: random.Random) -> str:
    marks = code_points("marks")
    base = rng.choice([*"aeiouAEIOUn \n1", rng.choice(code_points("letters")), rng.choice(code_points("decomposable"))])
    return base + "".join(
        rng.choice(["\u0301", "\u0323", "\u0308", "\u0345", rng.choice(marks)]) for _ in range(rng.randint(1, 5))
    )


def _decomposed(rng: random.Random) -> str:
    text = list(unicodedata.normalize("NFD", _run(rng, code_points("decomposable"), 3)))
    if rng.random() < 0.3:
        rng.shuffle(text)
    return "".join(text)


FRAGMENTS = [
    lambda rng: rng.choice(WORDS),
    lambda rng: " " + rng.choice(WORDS),
    lambda rng: rng.choice(WORDS) + rng.choice(CONTRACTIONS),
    lambda rng: rng.choice(CONTRACTIONS),
    lambda rng: " " * rng.randint(1, 60),
    lambda rng: rng.choice(WHITE_SPACE) * rng.randint(1, 60),
    lambda rng: _run(rng, WHITE_SPACE, 6),
    lambda rng: _run(rng, [" ", "\n", "\t", "\r\n"], 8),
    lambda rng: _run(rng, list("0123456789"), 6),
    lambda rng: _run(rng, code_points("digits"), 4),
    lambda rng: _run(rng, code_points("controls"), 3),
    lambda rng: _run(rng, list("!?.,;:-_()[]{}<>|#'\"@/\\~`^&*+="), 5),
    lambda rng: rng.choice(SPECIAL),
    lambda rng: _run(rng, HANGUL_JAMO, 5),
    lambda rng: rng.choice(SYLLABLES) + _run(rng, HANGUL_JAMO, 2),
    _marks_on_letters,
    _decomposed,
    lambda rng: _run(rng, code_points("letters"), 5),
    lambda rng: "".join(any_code_point(rng) for _ in range(rng.randint(1, 4))),
]


def fuzz_text(rng: random.Random, num_characters: int) -> str:
    """A text of at least `num_characters`, of every kind of fragment in random order."""
    parts, size = [], 0
    while size < num_characters:
        parts.append(rng.choice(FRAGMENTS)(rng))
        size += len(parts[-1])
    return "".join(parts)


def real_text() -> str:
    """Held-out novels where the checkout has them beside it, otherwise a paragraph in many scripts."""
    return REAL_TEXT.read_text(encoding="utf-8") if REAL_TEXT.exists() else PARAGRAPH * 40


any_text = st.text(st.characters(exclude_categories=["Cs"]))
fuzzed_text = st.builds(
    lambda seed, size: fuzz_text(random.Random(seed), size), st.integers(0, 2**32), st.integers(0, 60)
)
mixed_text = st.lists(
    st.one_of(
        st.sampled_from(WHITE_SPACE).flatmap(lambda c: st.integers(1, 60).map(lambda n: c * n)),
        st.sampled_from(CONTRACTIONS + SPECIAL + WORDS + SYLLABLES),
        st.text(st.sampled_from(HANGUL_JAMO), max_size=4),
        st.text(st.characters(categories=["Mn", "Mc", "Lu", "Ll"]), max_size=6),
        st.text(st.characters(categories=["Nd", "Nl", "No"]), max_size=4),
        any_text,
    ),
    max_size=12,
).map("".join)
