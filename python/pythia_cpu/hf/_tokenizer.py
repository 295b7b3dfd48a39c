"""Tokenizers with transformers' calls."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from pythia_cpu._arguments import refuse_table
from pythia_cpu._hub_access import using_hub
from pythia_cpu._options import refuse_unknown
from pythia_cpu._source import revision_name
from pythia_cpu._tokenizer import Tokenizer
from pythia_cpu.hf._arrays import is_torch, to_lists
from pythia_cpu.hf._encoding import THEIRS, BatchEncoding
from pythia_cpu.hf._offline import offline
from pythia_cpu.hf._padding import NO_LIMIT, Columns, as_tensors, fill_up, length_limit, padded_width
from pythia_cpu.hf._special_tokens import SpecialTokens
from pythia_cpu.hf._tokenizer_files import read_tokenizer

_LOADING_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "use_fast": (),
    "trust_remote_code": (),  # no code of a checkpoint ever runs
    "force_download": (False,),
    "add_prefix_space": (False,),
    "clean_up_tokenization_spaces": (),
    "add_bos_token": (False,),
    "add_eos_token": (False,),
    "resume_download": (),
    "subfolder": ("",),
}
_CALL_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "add_special_tokens": (),  # GPT-NeoX adds none
    "return_token_type_ids": (False,),
    "return_special_tokens_mask": (False,),
    "return_overflowing_tokens": (False,),
    "return_length": (False,),
    "is_split_into_words": (False,),
    "stride": (0,),
    "verbose": (),
}
_DECODE_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "clean_up_tokenization_spaces": (),  # BPE tokenizers have nothing to clean up
    "spaces_between_special_tokens": (False,),
}


class GPTNeoXTokenizer(SpecialTokens):
    """A GPT-NeoX tokenizer; ``AutoTokenizer.from_pretrained`` makes these.

    Attributes, all of which may be set:
        padding_side: "right", as in transformers, or "left", which ``generate`` is for.
        truncation_side: "right" or "left", where rows that are too long are cut.
        model_max_length: the most tokens of a row where ``max_length`` is not given; 10**30: there is no such limit.
        pad_token: the token that fills rows up, e.g. ``eos_token``; its id is ``pad_token_id``.
        bos_token, eos_token, unk_token: ``<|endoftext|>``, unless the checkpoint's files say otherwise; their ids are
            ``bos_token_id`` and so on.
        extra_special_tokens: special tokens without an attribute.
        chat_template: the text of the checkpoint's; None: it has none. Nothing here applies it.
    """

    def __init__(
        self,
        section: bytes,
        *,
        padding_side: str = "right",
        truncation_side: str = "right",
        model_max_length: int = NO_LIMIT,
        special_tokens: Mapping[str, str | None] | None = None,
        extra_special_tokens: Sequence[str] = (),
        chat_template: str | None = None,
    ) -> None:
        """``section`` is a tokenizer section of a ``.pcpu`` file. Raises ValueError for special tokens that it does not
        have.
        """
        tokenizer = Tokenizer(section, None)
        tokenizer._tokenizer.post_processor = None  # it trims spaces from offsets, where transformers keeps them
        self._base = tokenizer
        vocabulary = tokenizer._tokenizer.get_vocab(with_added_tokens=True)
        super().__init__(vocabulary, special_tokens or {}, extra_special_tokens)
        self.chat_template = chat_template
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.model_max_length: int = int(model_max_length)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        padding_side: str | None = None,
        truncation_side: str | None = None,
        pad_token: str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        unk_token: str | None = None,
        model_max_length: int | None = None,
        token: str | bool | None = None,
        use_auth_token: str | bool | None = None,
        **others: Any,
    ) -> GPTNeoXTokenizer:
        """The tokenizer of a checkpoint, without its weights.

        Args:
            pretrained_model_name_or_path: a checkpoint folder, a hub id, or a ``.pcpu`` file.
            revision: branch, tag, commit, or a training step as an int.
            cache_dir: where downloads are kept; None: where HF_HOME says.
            local_files_only: do not ask the hub; read what was downloaded before.
            padding_side: "right" or "left"; None, here and below: as tokenizer_config.json says, else "right".
            truncation_side: "right" or "left".
            pad_token: the token that fills rows up; None, also below: as the checkpoint's files say, else
                ``<|padding|>`` where the vocabulary has it.
            bos_token: the token that begins texts, else ``<|endoftext|>``.
            eos_token: the token that ends texts, likewise.
            unk_token: what stands for tokens that there are not, likewise.
            model_max_length: the most tokens of a row; else of a ``.pcpu`` file its model's context, else no limit.
            token: a user's token for the hub; None: the one that its client has stored, False: none.
            use_auth_token: the old name of token.
            **others: other options of transformers, where they change nothing.

        Raises:
            CheckpointError: there is no such checkpoint or revision, or its tokenizer is not a GPT-NeoX one.
            ValueError: an option that is not supported; a special token that the vocabulary does not have.
            OSError: a file cannot be read, or the hub cannot be reached.
        """
        refuse_unknown("from_pretrained", others, _LOADING_WITHOUT_EFFECT)
        token = use_auth_token if token is None else token
        with offline(local_files_only), using_hub(cache_dir=cache_dir, token=token):
            section, settings = read_tokenizer(pretrained_model_name_or_path, revision_name(revision))
        given = {
            "padding_side": padding_side,
            "truncation_side": truncation_side,
            "model_max_length": model_max_length,
        }
        named = {"pad_token": pad_token, "bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token}
        settings |= {name: value for name, value in given.items() if value is not None}
        stored = settings.pop("special_tokens", {})
        return cls(
            section,
            special_tokens={**stored, **{name: value for name, value in named.items() if value is not None}},
            **settings,
        )

    def __getattr__(self, name: str) -> Any:
        """Says where to find more."""
        raise AttributeError(f"pythia_cpu's GPTNeoXTokenizer has no {name!r}; {THEIRS}")

    is_fast = True  # in transformers' sense: not written in Python

    @property
    def vocab_size(self) -> int:
        """Tokens without the added ones, as transformers counts them; ``len(tokenizer)`` has all."""
        size: int = self._base._tokenizer.get_vocab_size(with_added_tokens=False)
        return size

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        """The tokens beside the vocabulary by id, each a ``tokenizers.AddedToken``."""
        found: dict[int, Any] = self._base._tokenizer.get_added_tokens_decoder()
        return found

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Ids of the tokens beside the vocabulary."""
        return {token.content: id for id, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """``added_tokens_encoder``."""
        return self.added_tokens_encoder

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens in the vocabulary's own spelling."""
        text: str = self._base._tokenizer.decoder.decode(list(tokens))
        return text

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, in the vocabulary's own spelling."""
        return [self._tokens[id] for id in self._base.encode(text)]

    def encode(self, text: str, **options: Any) -> Any:
        """The ``input_ids`` of a call with the same options: a list, or an array ``[1, length]``."""
        return self(text, **options)["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        text_pair: None = None,
        *,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = True,
        return_offsets_mapping: bool = False,
        padding_side: str | None = None,
        **others: Any,
    ) -> BatchEncoding:
        """Token ids and attention mask of one text or several.

        Args:
            text: a str or a list of str.
            text_pair: None: GPT-NeoX has no pairs.
            padding: True or "longest": fill rows up to the longest; "max_length": to ``max_length``; False: not at all.
            truncation: True: cut rows to ``max_length`` tokens; None: if ``max_length`` is given without ``padding``.
            max_length: a row's tokens, for the two above; None: ``model_max_length``, where that is a limit.
            pad_to_multiple_of: fill rows up further, to a multiple of it.
            return_tensors: None: lists; "np": int64 arrays ``[batch, length]``; "pt": torch tensors.
            return_attention_mask: give ``attention_mask`` too.
            return_offsets_mapping: give ``offset_mapping`` too, ``[batch, length, 2]``: where in its text each token
                begins and ends, in characters; (0, 0) for padding.
            padding_side: this call's, instead of the attribute.
            **others: other options of transformers, where they change nothing.

        Raises:
            ValueError: an option that is not supported; rows of different lengths that are to be one array.
            ImportError: "pt" without torch.
        """
        refuse_unknown("tokenizer", others, _CALL_WITHOUT_EFFECT)
        if text_pair is not None:
            raise ValueError("tokenizer: text_pair is not supported by pythia_cpu: join the texts")
        single = isinstance(text, str)
        if not single and (isinstance(text, Mapping | bytes) or not hasattr(text, "__iter__")):
            raise ValueError(f"text is of type {type(text).__name__}, expected a str or a list of str")
        refuse_table("text", text, ".to_numpy()")
        texts = [text] if isinstance(text, str) else list(text)
        columns: Columns = {"input_ids": [self._base.encode(one) for one in texts]}
        if return_offsets_mapping:
            columns["offset_mapping"] = [list(map(tuple, self._base.offsets(one).tolist())) for one in texts]
        limit = length_limit(max_length, self.model_max_length)
        if truncation is None:
            truncation = max_length is not None and padding is False
        if limit is not None and truncation not in (False, "do_not_truncate"):
            self._cut(columns, truncation, limit)
        lengths = [len(row) for row in columns["input_ids"]]
        columns["attention_mask"] = [[1] * length for length in lengths]
        self._fill_up(columns, padding, limit, pad_to_multiple_of, padding_side)
        rows = columns["input_ids"]
        if return_attention_mask is False:
            del columns["attention_mask"]
        encoding = _encoding(columns, single, return_tensors)
        encoding._encode = lambda: self._encodings(texts, lengths, [len(row) for row in rows], padding_side)
        return encoding

    def _encodings(
        self, texts: list[str], lengths: list[int], widths: list[int], padding_side: str | None
    ) -> list[tokenizers.Encoding]:
        """Those of texts that were cut to ``lengths`` and filled up to ``widths``."""
        found = self._base._tokenizer.encode_batch(texts, add_special_tokens=False)
        for encoding, length, width in zip(found, lengths, widths, strict=True):
            encoding.set_sequence_id(0)  # what is padding has none
            encoding.truncate(length, direction=self.truncation_side)
            if width > length:
                side = padding_side or self.padding_side
                encoding.pad(width, direction=side, pad_id=self.pad_token_id, pad_token=self.pad_token)
        return found

    encode_plus = batch_encode_plus = __call__

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchEncoding:
        """Fills up rows that are encoded already.

        Args:
            encoded_inputs: an encoding of one text or several, or a list of encodings of one text each, of lists,
                arrays or tensors; ``attention_mask`` may be missing. What is beside these and
                ``offset_mapping`` is left as it is.
            padding: as in a call.
            max_length: as in a call.
            pad_to_multiple_of: as in a call.
            padding_side: as in a call.
            return_attention_mask: False: give no ``attention_mask``.
            return_tensors: as in a call; None: as the rows are.
            verbose: has no effect.

        Raises:
            ValueError: there are no ``input_ids``, or as a call.
            ImportError: "pt" without torch.
        """
        given = encoded_inputs
        if not isinstance(given, Mapping):
            given = {name: [one[name] for one in given] for name in (given[0] if len(given) else ())}
        if "input_ids" not in given:
            raise ValueError(f"the encoding has no input_ids, only {list(given)}: pass what the tokenizer gives")
        first = given["input_ids"][0] if len(given["input_ids"]) else None
        if return_tensors is None:
            return_tensors = "pt" if is_torch(first) else "np" if isinstance(first, np.ndarray | np.generic) else None
        columns: Columns = {name: to_lists(value) for name, value in given.items()}
        single = not (columns["input_ids"] and isinstance(columns["input_ids"][0], list))
        if single:
            columns = {name: [value] for name, value in columns.items()}
        columns.setdefault("attention_mask", [[1] * len(row) for row in columns["input_ids"]])
        limit = length_limit(max_length, self.model_max_length)
        self._fill_up(columns, padding, limit, pad_to_multiple_of, padding_side)
        if return_attention_mask is False:
            del columns["attention_mask"]
        return _encoding(columns, single, return_tensors)

    def _cut(self, columns: Columns, truncation: bool | str, limit: int) -> None:
        if truncation not in (True, "longest_first", "only_first"):
            raise ValueError(f"truncation is {truncation!r}, expected True, False, 'longest_first' or 'only_first'")
        if self.truncation_side not in ("left", "right"):
            raise ValueError(f"truncation_side is {self.truncation_side!r}, expected 'left' or 'right'")
        for rows in columns.values():
            for i, row in enumerate(rows):
                rows[i] = row[:limit] if self.truncation_side == "right" else row[max(0, len(row) - limit) :]

    def _fill_up(
        self, columns: Columns, padding: bool | str, limit: int | None, multiple: int | None, side: str | None
    ) -> None:
        lengths = [len(row) for row in columns["input_ids"]]
        width = padded_width(lengths, padding, limit, multiple)
        if all(length >= width for length in lengths):
            return
        pad = self.pad_token_id
        if pad is None:
            raise ValueError("the tokenizer has no pad_token: set tokenizer.pad_token = tokenizer.eos_token")
        fillers = {"input_ids": pad, "attention_mask": 0, "offset_mapping": (0, 0)}
        fill_up(columns, width, side or self.padding_side, fillers)

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **others: Any) -> Any:
        """The text of ids ``[length]`` (list, array or tensor) or of one id, special tokens included by default; of
        ``[batch, length]`` a list of texts.
        """
        refuse_unknown("decode", others, _DECODE_WITHOUT_EFFECT)
        ids = to_lists(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self.decode(row, skip_special_tokens) for row in ids]
        return self._base.decode(ids, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **others: Any) -> list[str]:
        """The texts of several rows of ids; of one row a list of one text, of no ids none."""
        rows = to_lists(sequences)
        texts = self.decode(rows, skip_special_tokens, **others) if rows != [] else []
        return texts if isinstance(texts, list) else [texts]

    def __repr__(self) -> str:
        """Size, padding and special tokens."""
        return f"GPTNeoXTokenizer(len={len(self)}, padding_side={self.padding_side!r}, pad_token={self.pad_token!r})"


def _encoding(columns: Columns, single: bool, return_tensors: str | None) -> BatchEncoding:
    if return_tensors is None:
        return BatchEncoding({name: rows[0] for name, rows in columns.items()} if single else columns)
    if return_tensors not in ("np", "pt"):
        raise ValueError(f"return_tensors is {return_tensors!r}, expected None, 'np' or 'pt'")
    return BatchEncoding(as_tensors(columns, return_tensors))


AutoTokenizer = GPTNeoXTokenizerFast = GPTNeoXTokenizer
