"""The tokenizer of a model's file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import tokenizers

from pythia_cpu import _core
from pythia_cpu._arguments import boolean, integer, iterator
from pythia_cpu._lazy import lazy_property


class Tokenizer:
    """Text to token ids and back, as Hugging Face ``tokenizers`` does it, many times as fast; no token is added at the
    beginning or the end.
    """

    def __init__(self, section: bytes, eos_token_id: int | None) -> None:
        """``section`` is a ``.pcpu`` file's tokenizer section, which carries the checkpoint's ``tokenizer.json``."""
        self._core = _core.Tokenizer(section)
        self._section = section
        self._eos_token_id = eos_token_id

    @lazy_property
    def _tokenizer(self) -> tokenizers.Tokenizer:
        """That of ``tokenizers``, for what the core does not know: offsets, and how many tokens there are."""
        found = tokenizers.Tokenizer.from_str(self._core.json.decode("utf-8"))
        found.no_truncation()
        found.no_padding()
        return found

    def tokenizes_as(self, other: Tokenizer) -> bool:
        """Whether both give the same tokens, which a ``tokenizer.json`` that was written otherwise may do too."""
        return self._core.tokenizes_as(other._core)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added.

        Raises:
            ValueError: the text is not a str, or holds lone surrogates.
        """
        return self._core.encode(_checked(text))

    def offsets(self, text: str) -> npt.NDArray[np.int64]:
        """Where in the text each token of ``encode(text)`` comes from.

        They are the offsets of ``tokenizers`` (transformers' ``return_offsets_mapping``): a token has the space before
        its word in its range, unless the checkpoint's tokenizer trims it (``trim_offsets`` of its post-processor).
        Tokens that are parts of one character each have all of it. Characters are those of the text as it was given;
        of several that NFC joins to one, only the first is in the range.

        Returns:
            int64 ``[num_tokens, 2]``: ``text[begin:end]`` for each row ``begin, end``.

        Raises:
            ValueError: as ``encode``.
        """
        encoding = self._tokenizer.encode(_checked(text), add_special_tokens=False)
        return np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)

    def decode(self, ids: int | Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, one or several; bytes that are not UTF-8 become U+FFFD, ids without a token give no text,
        nor do special ones such as ``<|endoftext|>``, unless ``skip_special_tokens`` is False.

        Raises:
            ValueError: something other than ids from 0 to 2**32 - 1.
        """
        if isinstance(ids, bytes | bytearray | set | frozenset):
            raise ValueError(
                f"ids are of type {type(ids).__name__}, expected token ids in their order: a list of whole numbers"
            )
        given = np.asarray(ids).tolist() if hasattr(ids, "__array__") else ids  # of torch.Tensor, too
        values = [given] if isinstance(given, int) else list(iterator("ids", given, "token ids"))
        plain = set(map(type, values)) <= {int} and (not values or (min(values) >= 0 and max(values) < 2**32))
        for value in () if plain else values:
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
                raise ValueError(f"ids hold {value!r}, expected token ids, whole numbers from 0 to 2**32 - 1")
        skip = boolean("skip_special_tokens", skip_special_tokens)
        return self._core.decode(values, skip)

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for; none for an id without a token."""
        return self._core.token_bytes(integer("id", id, 0))

    @property
    def vocab_size(self) -> int:
        """Tokens of the tokenizer, added ones included; the model's ``config["vocab_size"]`` may be larger (padding
        rows).
        """
        size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        return size

    @property
    def eos_token_id(self) -> int | None:
        """The id that ends a text, from the checkpoint's config."""
        return self._eos_token_id

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes, int | None]]:
        """How ``pickle`` and ``copy`` make it again."""
        return Tokenizer, (self._section, self._eos_token_id)

    def __repr__(self) -> str:
        """Size and end-of-text id."""
        return f"Tokenizer(vocab_size={self.vocab_size}, eos_token_id={self.eos_token_id})"


def _checked(text: object) -> str:
    """A str of whole characters."""
    if not isinstance(text, str):
        raise ValueError(f"text is of type {type(text).__name__}, expected str")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"text has a lone surrogate at position {error.start}, which is no character; "
            "read files with errors='replace' to be rid of such"
        ) from None
    return text
