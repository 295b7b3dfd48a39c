#!/usr/bin/env python3
"""Writes csrc/text/unicode_tables.{h,cc}: the Unicode data of the tokenizer, as `tokenizers` itself has it.

The reference uses several Unicode versions at once (its regex engine has one, its normaliser an older one), none of
them Python's. So nothing is taken on trust: every property of every code point is observed by running `tokenizers`, and
`unicodedata` only gives the shape of the decompositions, each of which is then checked. Run it again after a change of
the reference:

    python tools/make_unicode_tables.py          # rewrites the files
    python tools/make_unicode_tables.py --check  # exits 1 if they would change
"""

from __future__ import annotations

import argparse
import importlib.metadata
import pathlib
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

TEXT_DIR = pathlib.Path(__file__).parents[1] / "csrc" / "text"
BLOCK_BITS = 7
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
HANGUL_VOWELS = range(0x1161, 0x1176)
HANGUL_FINALS = range(0x11A8, 0x11C3)
CLASSES = {"kOther": 0, "kLetter": 1, "kNumber": 2, "kSpace": 3}

nfc = normalizers.NFC().normalize_str
nfd = normalizers.NFD().normalize_str


def code_points_matching(regex: str) -> set[int]:
    """Code points that the reference's regex engine puts into a character class."""
    keep = pre_tokenizers.Split(Regex(regex), "removed", invert=True)
    return {ord(c) for piece, _ in keep.pre_tokenize_str("".join(map(chr, CODE_POINTS))) for c in piece}


def combining_classes() -> dict[int, int]:
    """Non-zero canonical combining classes, told from how the reference sorts marks that stand side by side."""
    low, high = "\u0334", "\u0345"  # classes 1 and 240, the ends of the scale
    found = [m for m in map(chr, CODE_POINTS) if nfd(m) == m and (nfd(m + low) != m + low or nfd(high + m) != high + m)]
    representatives: dict[int, str] = {}
    for mark in found:
        representatives.setdefault(unicodedata.combining(mark), mark)
    classes = {}
    for mark in found:
        equal = [k for k, m in representatives.items() if nfd(mark + m) == mark + m and nfd(m + mark) == m + mark]
        assert equal == [unicodedata.combining(mark)], f"U+{ord(mark):04X}: combining class {equal}"
        classes[ord(mark)] = equal[0]
    return classes


def one_level_decompositions() -> dict[int, tuple[int, int]]:
    """Canonical decompositions of one step, (first, second or 0), of all that the reference decomposes but Hangul."""
    result = {}
    for c in CODE_POINTS:
        if c in HANGUL_SYLLABLES or nfd(chr(c)) == chr(c):
            continue
        parts = [int(part, 16) for part in unicodedata.decomposition(chr(c)).split()]
        assert 1 <= len(parts) <= 2, f"U+{c:04X}"
        assert nfd("".join(map(chr, parts))) == nfd(chr(c)), f"U+{c:04X}"
        result[c] = (parts[0], parts[1] if len(parts) == 2 else 0)
    return result


class Data:
    """All tables, ready to print."""

    def __init__(self) -> None:
        """Asks the references about every code point."""
        letters, numbers = code_points_matching(r"\p{L}+"), code_points_matching(r"\p{N}+")
        spaces = code_points_matching(r"\s+")
        assert not (letters & numbers or letters & spaces or numbers & spaces)
        ccc = combining_classes()
        self.decompositions = one_level_decompositions()
        self.compositions = sorted(
            (pair, index)
            for index, (c, pair) in enumerate(self.decompositions.items())
            if pair[1] and nfc(chr(pair[0]) + chr(pair[1])) == chr(c)
        )
        maybe = {pair[1] for pair, _ in self.compositions} | set(HANGUL_VOWELS) | set(HANGUL_FINALS)

        def properties(c: int) -> tuple[int, int, bool]:
            cls = 1 if c in letters else 2 if c in numbers else 3 if c in spaces else 0
            # Anything that NFC may change or that may join what is before it needs the full algorithm.
            return cls, ccc.get(c, 0), c in maybe or (0xD800 <= c <= 0xDFFF) or nfc(chr(c)) != chr(c)

        surrogate = (0, 0, False)
        values = [surrogate if 0xD800 <= c <= 0xDFFF else properties(c) for c in range(0x110000)]
        self.properties = sorted(set(values))
        assert len(self.properties) < 256
        index_of = {value: index for index, value in enumerate(self.properties)}
        blocks: dict[tuple[int, ...], int] = {}
        self.block_index = []
        for start in range(0, 0x110000, 1 << BLOCK_BITS):
            block = tuple(index_of[v] for v in values[start : start + (1 << BLOCK_BITS)])
            self.block_index.append(blocks.setdefault(block, len(blocks)))
        assert len(blocks) < 256
        self.blocks = [value for block in blocks for value in block]


def array(element: str, name: str, items: list[str]) -> str:
    """A constant array in lines of at most 120 columns; elements that are structs need the second pair of braces."""
    lines, line = [], "   "
    for item in items:
        if len(line) + len(item) + 2 > 120:
            lines.append(line)
            line = "   "
        line += f" {item},"
    opening, closing = ("{{", "}}") if items[0].startswith("{") else ("{", "}")
    body = "\n".join([*lines, line])
    return f"const std::array<{element}, {len(items)}> {name} = {opening}\n{body}\n{closing};\n"


def render(data: Data) -> dict[str, str]:
    """The two files' texts."""
    version = importlib.metadata.version("tokenizers")
    made = f"// Made by tools/make_unicode_tables.py from tokenizers {version}; do not edit.\n"
    names = list(CLASSES)
    enumerators = ", ".join(f"{name} = {value}" for name, value in CLASSES.items())
    header = f"""// The Unicode data of the tokenizer: character classes of the GPT-2 pattern, and what NFC needs.
{made}#pragma once

#include <array>
#include <cstdint>

namespace pythia::unicode {{

// Everything else, \\p{{L}}, \\p{{N}}, \\s.
enum class CharClass : uint8_t {{ {enumerators} }};

struct Properties {{
  CharClass char_class;
  uint8_t combining_class;  // canonical combining class
  bool nfc_unsure;          // NFC_Quick_Check is No or Maybe
}};

// A code point that NFD changes in one step to first, or first second. Hangul syllables are computed instead.
struct Decomposition {{
  uint32_t code_point;
  uint32_t first;
  uint32_t second;  // 0: none
}};

inline constexpr int kBlockBits = {BLOCK_BITS};
inline constexpr uint32_t kNumCodePoints = 0x110000;

// The block of a code point without its low kBlockBits bits; and for each block, the low bits' index into kProperties.
extern const std::array<uint8_t, {len(data.block_index)}> kBlockIndex;
extern const std::array<uint8_t, {len(data.blocks)}> kBlocks;
extern const std::array<Properties, {len(data.properties)}> kProperties;

// In the order of code points; and those of them that NFC undoes, in the order of (first, second).
extern const std::array<Decomposition, {len(data.decompositions)}> kDecompositions;
extern const std::array<uint16_t, {len(data.compositions)}> kCompositions;

// `code_point` < kNumCodePoints.
inline const Properties& properties(uint32_t code_point) {{
  const uint32_t block = kBlockIndex[code_point >> kBlockBits];
  return kProperties[kBlocks[(block << kBlockBits) | (code_point & ((1u << kBlockBits) - 1))]];
}}

}}  // namespace pythia::unicode
"""
    properties = [f"{{CharClass::{names[cls]}, {ccc}, {int(unsure)}}}" for cls, ccc, unsure in data.properties]
    decompositions = [f"{{0x{c:x}, 0x{a:x}, 0x{b:x}}}" for c, (a, b) in data.decompositions.items()]
    source = f"""{made}#include "text/unicode_tables.h"

namespace pythia::unicode {{

// clang-format off
{array("uint8_t", "kBlockIndex", [str(i) for i in data.block_index])}
{array("uint8_t", "kBlocks", [str(i) for i in data.blocks])}
{array("Properties", "kProperties", properties)}
{array("Decomposition", "kDecompositions", decompositions)}
{array("uint16_t", "kCompositions", [str(index) for _, index in data.compositions])}// clang-format on

}}  // namespace pythia::unicode
"""
    return {"unicode_tables.h": header, "unicode_tables.cc": source}


def main() -> int:
    """Write the files, or compare them with --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a file would change")
    check = parser.parse_args().check
    changed = 0
    for name, text in render(Data()).items():
        path = TEXT_DIR / name
        if path.exists() and path.read_text() == text:
            continue
        changed += 1
        if not check:
            path.write_text(text)
        print(f"{path}: {'differs' if check else 'written'}")
    return int(check and changed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
