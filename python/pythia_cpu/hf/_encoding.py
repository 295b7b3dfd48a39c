"""What a tokenizer's call gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tokenizers

THEIRS = "transformers' own AutoTokenizer, which works with this model too, has more"


class BatchEncoding(dict[str, Any]):
    """``input_ids`` and ``attention_mask``, as items and as attributes; an item's name may be a row's number, for its
    ``tokenizers.Encoding``.
    """

    _encode: Callable[[], list[tokenizers.Encoding]] | None = None
    _encodings: list[tokenizers.Encoding] | None = None

    def __getattr__(self, name: str) -> Any:
        """The item called ``name``."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the encoding has no {name!r}; it has {', '.join(self)}; {THEIRS}") from None

    def __getitem__(self, key: Any) -> Any:
        """An item by its name; the Encoding of a row by its number; of a slice the items' rows."""
        if isinstance(key, int):
            return self._rows()[key]
        if isinstance(key, slice):
            return {name: value[key] for name, value in self.items()}
        return super().__getitem__(key)

    def __getstate__(self) -> None:
        """Pickled without Encodings, as an item of a data loader."""

    @property
    def encodings(self) -> list[tokenizers.Encoding] | None:
        """One a row; None if the encoding did not come from a text in this process."""
        return None if self._encode is None else self._rows()

    def tokens(self, batch_index: int = 0) -> list[str]:
        """A row's tokens, in the vocabulary's own spelling."""
        tokens: list[str] = self._rows()[batch_index].tokens
        return tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Of each token of a row the number of its word, as the pre-tokenizer cuts them; None for padding."""
        ids: list[int | None] = self._rows()[batch_index].word_ids
        return ids

    def char_to_token(self, batch_or_char_index: int, char_index: int | None = None) -> int | None:
        """The token that holds a character: of a row and a place in its text, or of a place in the only row's."""
        row, char = (0, batch_or_char_index) if char_index is None else (batch_or_char_index, char_index)
        token: int | None = self._rows()[row].char_to_token(char)
        return token

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> tuple[int, int] | None:
        """Where in the text a token is, from and to."""
        row, token = (0, batch_or_token_index) if token_index is None else (batch_or_token_index, token_index)
        span: tuple[int, int] | None = self._rows()[row].token_to_chars(token)
        return span

    def _rows(self) -> list[tokenizers.Encoding]:
        if self._encodings is None:
            if self._encode is None:
                raise ValueError("the encoding has no Encodings: it was unpickled or padded, or made of ids")
            self._encodings = self._encode()
        return self._encodings

    @property
    def data(self) -> dict[str, Any]:
        """Itself."""
        return self

    def to(self, device: object, **others: object) -> BatchEncoding:
        """Itself: everything is on the CPU. Raises ValueError for another device."""
        if str(device) not in ("cpu", "cpu:0"):
            raise ValueError(f"device is {str(device)!r}, but pythia_cpu runs on the CPU: use 'cpu'")
        return self
