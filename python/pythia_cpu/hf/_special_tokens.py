"""A tokenizer's special tokens, by attribute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from pythia_cpu.hf._arrays import to_lists


class _IdOf:
    """The id of the token that the attribute ``name`` holds, None where it is None; may be set."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.__doc__ = f"The id of ``{name}``; None where there is none."

    @overload
    def __get__(self, tokens: None, owner: type) -> _IdOf: ...
    @overload
    def __get__(self, tokens: SpecialTokens, owner: type) -> int | None: ...
    def __get__(self, tokens: SpecialTokens | None, owner: type) -> _IdOf | int | None:
        if tokens is None:
            return self
        token = getattr(tokens, self._name)
        id: int | None = None if token is None else tokens.convert_tokens_to_ids(token)
        return id

    def __set__(self, tokens: SpecialTokens, id: int | None) -> None:
        token = None if id is None else tokens.convert_ids_to_tokens(id)
        if id is not None and token is None:
            expected = f"an id of this tokenizer, 0 to {len(tokens) - 1}, or None"
            raise ValueError(f"{self._name}_id is {id!r}, expected {expected}")
        setattr(tokens, self._name, token)


class SpecialTokens:
    """``bos_token``, ``eos_token``, ``unk_token``, ``pad_token`` and others of a vocabulary, and their ids; all may be
    set.
    """

    NAMES = "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"
    # Of GPTNeoXTokenizer, where a checkpoint does not say, if the vocabulary has them.
    DEFAULTS: Mapping[str, str] = {
        **dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        "pad_token": "<|padding|>",
    }

    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None

    def __init__(
        self, ids: dict[str, int], special_tokens: Mapping[str, str | None], extra_special_tokens: Iterable[str]
    ) -> None:
        """The vocabulary, token -> id; its special tokens by attribute, and those without one.

        Raises:
            ValueError: a special token that the vocabulary does not have.
        """
        self._ids = ids
        self._tokens = {id: token for token, id in ids.items()}
        defaults = {name: token for name, token in self.DEFAULTS.items() if token in ids}
        for name, token in {**dict.fromkeys(self.NAMES), **defaults, **special_tokens}.items():
            if token is not None:
                self._require(name, token)
            setattr(self, name, token)
        self.extra_special_tokens: list[str] = list(extra_special_tokens)
        for token in self.extra_special_tokens:
            self._require("extra_special_tokens", token)

    def _require(self, name: str, token: object) -> None:
        if not isinstance(token, str) or token not in self._ids:
            raise ValueError(
                f"{name} has {token!r}, which the vocabulary does not have, and pythia_cpu adds none to it: use a "
                "token that tokenizer.json has, or write it there with save_pretrained of transformers' own tokenizer"
            )

    bos_token_id: _IdOf = _IdOf("bos_token")
    eos_token_id: _IdOf = _IdOf("eos_token")
    unk_token_id: _IdOf = _IdOf("unk_token")
    sep_token_id: _IdOf = _IdOf("sep_token")
    pad_token_id: _IdOf = _IdOf("pad_token")
    cls_token_id: _IdOf = _IdOf("cls_token")
    mask_token_id: _IdOf = _IdOf("mask_token")

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """The special tokens that are set, by attribute."""
        return {name: token for name in self.NAMES if (token := getattr(self, name)) is not None}

    @property
    def all_special_tokens(self) -> list[str]:
        """The special tokens that are set, each once; then those without an attribute."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """Their ids."""
        ids: list[int] = self.convert_tokens_to_ids(self.all_special_tokens)
        return ids

    def add_special_tokens(self, special_tokens_dict: Mapping[str, object]) -> int:
        """Sets attributes to tokens that the vocabulary has, as in ``{"pad_token": tokenizer.eos_token}``.

        Returns:
            0: how many tokens are new.

        Raises:
            ValueError: another attribute, or a token that the vocabulary, and so the model, does not have.
        """
        for name, token in special_tokens_dict.items():
            if name not in self.NAMES:
                raise ValueError(f"{name!r} is no special token of pythia_cpu, expected one of {', '.join(self.NAMES)}")
            if str(token) not in self._ids:
                raise ValueError(
                    f"{name} is {str(token)!r}, which the vocabulary does not have, and pythia_cpu adds none to it: "
                    "use tokenizer.eos_token"
                )
            setattr(self, name, str(token))
        return 0

    def __len__(self) -> int:
        """Tokens, added ones included."""
        return len(self._ids)

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return dict(self._ids)

    @property
    def vocab(self) -> dict[str, int]:
        """``get_vocab()``."""
        return self.get_vocab()

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """Ids of tokens in the vocabulary's own spelling; ``unk_token_id`` for one that it does not have."""
        if not isinstance(tokens, str):
            return [self.convert_tokens_to_ids(token) for token in tokens]
        unknown = None if self.unk_token is None else self._ids.get(self.unk_token)
        return self._ids.get(tokens, unknown)

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Tokens of ids (list, array, tensor or other iterable), or the token of one id; None for an id without one."""
        found: Any = to_lists(ids)
        if not isinstance(found, Iterable):
            return self._tokens.get(found)
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self._tokens.get(id) for id in found if id not in skipped]
