"""A sequence that grows: its keys and values are kept, so only new tokens are computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import TokenIds, boolean, integer, token_ids
from pythia_cpu._edits import Edits, refuse_list_of_edits
from pythia_cpu._inspection import Run, inspected
from pythia_cpu._passes import append_in_chunks, runs_of_a_pass
from pythia_cpu._process_lock import ProcessLock


class Session:
    """A growing sequence of tokens; ``Model.session`` makes these.

    The logits are, bit for bit, those of ``Model.logits`` for the whole sequence, however it was cut into calls. Memory
    follows the length: 2 x layers x hidden_size numbers for each token, float32; in models with q8 or q4 weights int16,
    with a float32 scale for each head. Safe to use from several threads, whose calls run one after the other; sessions
    of one model do not touch each other.
    """

    def __init__(self, model: _core.Model) -> None:
        """An empty sequence."""
        if not isinstance(model, _core.Model):
            raise TypeError("sessions are made by model.session()")
        self._model = model
        config = model.file.config
        self._vocab_size: int = config["vocab_size"]
        self._context_length: int = config["max_position_embeddings"]
        self._cache = _core.KvCache(model)
        self._tokens: list[int] = []
        self._lock = ProcessLock("this session")
        self._is_appending = False

    @property
    def tokens(self) -> list[int]:
        """The token ids so far, a copy."""
        with self._lock:
            return list(self._tokens)

    def __len__(self) -> int:
        """How many tokens there are so far."""
        return len(self._tokens)

    def __bool__(self) -> bool:
        """True, also without tokens: a session is not its list of tokens."""
        return True

    def append(self, tokens: TokenIds, *, logits: bool = True) -> npt.NDArray[np.float32]:
        """Adds tokens to the end.

        Args:
            tokens: token ids ``[n]``; n may be 0.
            logits: False only reads the tokens, which takes less time.

        Returns:
            float32 ``[n, vocab_size]``; row i is the prediction after all tokens up to the i-th new one. Without logits
            ``[0, vocab_size]``.

        Raises:
            ValueError: an id that is not one of the model's, or more tokens than the context holds; nothing is added.
        """
        ids = token_ids("tokens", tokens, self._vocab_size)
        with self._appending(ids):
            return append_in_chunks(self._model, self._cache, ids, logits=boolean("logits", logits))

    def run(
        self,
        tokens: TokenIds,
        *,
        capture: str | Iterable[str] = (),
        edit: Edits | None = None,
        logits: bool = True,
    ) -> Run:
        """``append``, with the activations of the new tokens, kept and changed as by ``Model.run``: for example to
        steer a text, token by token.

        Keys and values stay as the edits left them, for all tokens that follow. Shapes are those of ``Model.run`` for
        the new tokens; keys of scores and patterns are all tokens of the session so far. Where an edit changes
        these two in a q8 or q4 model, earlier values are weighed as the session keeps them, in int16, not as in a run
        over the whole sequence.

        Args:
            tokens: token ids ``[n]``, n at least 1.
            capture: as in ``Model.run``.
            edit: as in ``Model.run``; it must not use this session, nor wait for a thread
                that does.
            logits: False leaves out the logits.

        Raises:
            ValueError: as ``append`` and ``Model.run``. Nothing is added.
        """
        ids = token_ids("tokens", tokens, self._vocab_size)
        if len(ids) == 0:
            raise ValueError("tokens has no tokens, expected at least one")
        refuse_list_of_edits(edit)
        with self._appending(ids):
            return inspected(self._model, [ids], capture, edit, logits, self._cache)[0]

    def _refuse_use_by_edits(self) -> None:
        if self._is_appending:
            raise ValueError("an edit of this session's run changes the session: use another one, or a fork")

    @contextlib.contextmanager
    def _appending(self, ids: npt.NDArray[np.int32]) -> Iterator[None]:
        """Around a pass that adds tokens to the cache, which are noted when it has."""
        with self._lock:
            self._refuse_use_by_edits()
            if len(self._tokens) + len(ids) > self._context_length:
                raise ValueError(
                    f"the session has {len(self._tokens)} tokens and tokens holds {len(ids)} more, but the model's "
                    f"context holds {self._context_length}: append fewer, or truncate first"
                )
            self._cache.truncate(len(self._tokens))  # Ctrl-C may have come before an earlier call could note its tokens
            self._is_appending = True
            try:
                yield
                self._tokens += ids.tolist()
            finally:
                self._is_appending = False

    def truncate(self, n: int) -> None:
        """Forgets all tokens but the first ``n``. Their memory stays the session's, for others.

        Raises:
            ValueError: ``n`` is no whole number from 0 to ``len(session)``.
        """
        with self._lock:
            self._refuse_use_by_edits()
            length = integer("n", n, 0, len(self._tokens))
            del self._tokens[length:]  # first: a cache that is longer is cut by the next call
            self._cache.truncate(length)

    def fork(self) -> Session:
        """A second session with the same tokens, independent of this one. Copies the keys and values and computes
        nothing.
        """
        copy = Session(self._model)
        with self._lock:
            copy._cache = self._model.fork(self._cache)
            copy._tokens = list(self._tokens)
        return copy

    def __copy__(self) -> Session:
        """``fork()``: two sessions never share keys and values."""
        return self.fork()

    def __deepcopy__(self, memo: object) -> Session:
        """``fork()``."""
        return self.fork()

    def __reduce__(self) -> NoReturn:
        """Raises TypeError."""
        raise TypeError("a session cannot be pickled: send its tokens, and append them to a session of the model there")

    def __repr__(self) -> str:
        """How full it is."""
        return f"Session({len(self._tokens)} of {self._context_length} tokens)"


def append_each(
    sessions: Sequence[Session], tokens: Sequence[TokenIds], *, logits: bool = True
) -> list[npt.NDArray[np.float32]]:
    """``Session.append`` of several sessions of one model, each other than the others. Short texts run together, which
    reads the weights once.
    """
    ids = [token_ids("tokens", one, session._vocab_size) for session, one in zip(sessions, tokens, strict=True)]
    found: list[npt.NDArray[np.float32]] = []
    for begin, end in runs_of_a_pass([len(one) for one in ids]):
        if end == begin + 1:
            found.append(sessions[begin].append(ids[begin], logits=logits))
            continue
        several, new = sessions[begin:end], ids[begin:end]
        counts = [len(one) if logits else 0 for one in new]
        with contextlib.ExitStack() as stack:
            for session, one in zip(several, new, strict=True):
                stack.enter_context(session._appending(one))
            slices = [
                (session._cache, one, n) for session, one, n in zip(several, new, counts, strict=True) if len(one)
            ]
            together = several[0]._model.forward(slices)
        found += np.split(together, np.cumsum(counts)[:-1])
    return found
