"""The tokenizer of a model's file."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import tokenizers

from pythia_cpu._arguments import boolean, iterator
from pythia_cpu._tokenizer_export import tokenizer_json


class Tokenizer:
    """Text to token ids and back, as Hugging Face ``tokenizers`` does it; no token is added at the beginning or the
    end.
    """

    def __init__(self, section: bytes, eos_token_id: int | None) -> None:
        """``section`` is a ``.pcpu`` file's tokenizer section, which carries the checkpoint's ``tokenizer.json``."""
        self._tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json(section).decode("utf-8"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._eos_token_id = eos_token_id

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens added.

        Raises:
            ValueError: the text is not a str, or holds lone surrogates.
        """
        ids: list[int] = self._encode(text).ids
        return ids

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
        return np.array(self._encode(text).offsets, dtype=np.int64).reshape(-1, 2)

    def _encode(self, text: str) -> tokenizers.Encoding:
        if not isinstance(text, str):
            raise ValueError(f"text is of type {type(text).__name__}, expected str")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"text has a lone surrogate at position {error.start}, which is no character; "
                "read files with errors='replace' to be rid of such"
            ) from None
        return self._tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """Text of token ids, one or several; bytes that are not UTF-8 become U+FFFD, ids without a token give no text.

        Raises:
            ValueError: something other than ids from 0 to 2**32 - 1.
        """
        given = np.asarray(ids).tolist() if hasattr(ids, "__array__") else ids  # of torch.Tensor, too
        values = [given] if isinstance(given, int) else list(iterator("ids", given, "token ids"))
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
                raise ValueError(f"ids hold {value!r}, expected token ids, whole numbers from 0 to 2**32 - 1")
        skip = boolean("skip_special_tokens", skip_special_tokens)
        text: str = self._tokenizer.decode([int(value) for value in values], skip_special_tokens=skip)
        return text

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

    def __repr__(self) -> str:
        """Size and end-of-text id."""
        return f"Tokenizer(vocab_size={self.vocab_size}, eos_token_id={self.eos_token_id})"
