"""The scoring methods of a model."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, overload

from pythia_cpu._arguments import Prompt, Prompts, boolean, integer
from pythia_cpu._edits import Edits
from pythia_cpu._score import Perplexity, Score
from pythia_cpu._score_file import FileOptions, score_to_file
from pythia_cpu._scoring_model import ScoringModel


class ScoresTexts(ABC):
    """The scoring methods of ``Model``."""

    @abstractmethod
    def _scoring(self) -> ScoringModel:
        """The model's parts that scoring uses."""

    @overload
    def score(  # type: ignore[overload-overlap]  # a str is a sequence of them
        self, text: Prompt, continuation: Prompt | None = None, *, edit: Edits | None = None, progress: bool = True
    ) -> Score: ...
    @overload
    def score(
        self, text: Prompts, continuation: None = None, *, edit: Edits | None = None, progress: bool = True
    ) -> list[Score]: ...
    @overload
    def score(
        self, text: Prompt | Prompts, continuation: Prompts, *, edit: Edits | None = None, progress: bool = True
    ) -> list[Score]: ...
    def score(
        self,
        text: Prompt | Prompts,
        continuation: Prompt | Prompts | None = None,
        *,
        edit: Edits | None = None,
        progress: bool = True,
    ) -> Score | list[Score]:
        """How likely the model finds a text, token by token. Ctrl-C ends it within a pass of 512 tokens.

        ``score(text)`` scores a text, all but its first token, which has nothing before it. ``score(context,
        continuation)`` scores the continuation only, ``score(context, [a, b])`` several of one context. In lists,
        requests run together, and contexts that they share are computed once; each Score is, bit for bit, what it would
        be alone.

        Args:
            text: a str, a sequence of token ids, or a list of these; with ``continuation`` the context. Arrays of str
                and a pandas.Series are lists.
            continuation: what follows the context, of the same kind, or a list of such; for a list of contexts a list
                of equal length. Two str are encoded as one text, whose tokens beyond the context's own are the
                continuation, as in lm-evaluation-harness: white space at the context's end counts as the
                continuation's. So the tokens before the continuation are those of the context alone, also where
                one of both together would begin in the context and end in the continuation ("walk" and "ed home"):
                then pass token ids. A context without tokens is the end-of-text token.
            edit: functions (or arrays) that change activations, as in ``Model.run``: of each text they see all tokens
                but the last, which is only predicted, and of ``"logits"`` those that predict a scored token. Nothing
                that texts share is computed once then.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Returns:
            a Score; for lists a list of them in the same order.

        Raises:
            ValueError: a text or continuation without tokens, more tokens than ``context_length`` and one that is only
                predicted, or ids that are not the model's; in a list, its place is named.
        """
        return self._scoring().edited(edit).score(text, continuation, progress=progress)

    @overload
    def perplexity(  # type: ignore[overload-overlap]  # a str is a sequence of them
        self,
        text: Prompt,
        *,
        context_length: int | None = None,
        stride: int | None = None,
        edit: Edits | None = None,
        progress: bool = True,
    ) -> Perplexity: ...
    @overload
    def perplexity(
        self,
        text: Prompts,
        *,
        context_length: int | None = None,
        stride: int | None = None,
        edit: Edits | None = None,
        progress: bool = True,
    ) -> list[Perplexity]: ...
    def perplexity(
        self,
        text: Prompt | Prompts,
        *,
        context_length: int | None = None,
        stride: int | None = None,
        edit: Edits | None = None,
        progress: bool = True,
    ) -> Perplexity | list[Perplexity]:
        """Perplexity of a text of any length, which is cut into windows. Ctrl-C ends it within a pass of 512 tokens.

        Without ``stride``, the rolling windows of lm-evaluation-harness: every token is scored once. The first window
        predicts ``context_length`` tokens, the text's first one from the end-of-text token; each window after it
        predicts the next ``context_length``, from the token before them; the last one what is left, with as many
        earlier tokens before as fit.

        With ``stride``, the windows of Hugging Face's guide "Perplexity of fixed-length models": windows of
        ``context_length`` tokens begin every ``stride`` tokens, and each scores the tokens that none before it held,
        given all before them in the window. The first token of the text is not scored; with ``stride ==
        context_length`` (disjoint windows) nor is the first of any window. The result is exp of the mean over all
        scored tokens; the guide's own code gives a window's mean one token too little weight where windows overlap.

        Args:
            text: a str, a sequence of token ids, or a list of these, each of which gets a perplexity of its own; short
                ones run together.
            context_length: tokens of a window, 2 to the model's ``context_length``, which is the default.
            stride: tokens between the beginnings of windows, 1 to ``context_length``.
            edit: as in ``score``, of each window.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Raises:
            ValueError: an argument out of its range, or a text without a token to score.
        """
        return (
            self._scoring()
            .edited(edit)
            .perplexity(text, context_length=context_length, stride=stride, progress=progress)
        )

    def score_to_file(
        self,
        inputs: Iterable[Any],
        path: str | os.PathLike[str],
        *,
        per_token: bool = True,
        context_length: int | None = None,
        stride: int | None = None,
        progress: bool = True,
    ) -> int:
        """Scores many texts into a file of JSON lines, one a text, written as they come.

        A file that is there already is continued: records in it are compared with the inputs, and scoring begins
        after them. So a run that was interrupted (Ctrl-C, a crash) is called again as it was, and costs at most about
        ten seconds again (or 2,048 tokens). Records are those of an uninterrupted run, byte for byte.

        Every record has ``index``, ``id`` (if the input has one), ``model`` (``Model.key``), ``input`` (a hash of the
        input and the options), ``num_text_tokens``, ``num_tokens`` (those scored), ``num_bytes`` (theirs; None for
        token ids), ``log_likelihood``, ``num_greedy``, and with ``per_token`` the arrays ``tokens``, ``logprobs``,
        ``ranks``, ``entropies`` and ``varentropies`` of the scored tokens (see Score). Numbers that JSON lacks, NaN and
        infinities, are null. ``pandas.read_json(path, lines=True)`` reads it; with ``dtype={"id": str}`` it leaves ids
        such as "007" as they are.

        Args:
            inputs: any iterable, perhaps longer than memory, of texts (a str or token ids), or of dicts with ``text``,
                or ``context`` and ``continuation``, and perhaps ``id``, a str or a number; None or NaN is as if it
                were missing, and other members are ignored.
                Texts are cut into windows as by ``perplexity``, and one without tokens gets a record of 0 tokens;
                continuations are scored as by ``score``.
            path: the file.
            per_token: write the arrays.
            context_length: as in ``perplexity``.
            stride: as in ``perplexity``.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.

        Returns:
            how many records were added.

        Raises:
            ValueError: an input that cannot be scored, by its number; a file whose records are of another model, of
                other inputs or options, or that another process writes.
            OSError: the file cannot be written.
        """
        options = FileOptions(
            boolean("per_token", per_token),
            None if context_length is None else integer("context_length", context_length, 2),
            None if stride is None else integer("stride", stride, 1),
        )
        return score_to_file(self._scoring(), inputs, path, options, progress=progress)
