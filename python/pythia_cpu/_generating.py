"""The generating methods of a model."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from pythia_cpu._arguments import Prompt, Prompts, boolean, is_batch, iterator, refuse_table
from pythia_cpu._edits import Edits, EditsOfEach, refuse_list_of_edits
from pythia_cpu._generating_model import Aids, GeneratingModel
from pythia_cpu._generation import Generation
from pythia_cpu._generation_arguments import GenerationArguments, StreamOptions, TextOptions
from pythia_cpu._generation_file import generate_to_file
from pythia_cpu._prefix_cache import PrefixCache
from pythia_cpu._progress import ProgressBar
from pythia_cpu._token_stream import TokenStream

if TYPE_CHECKING:
    from typing_extensions import Unpack
else:

    class Unpack:
        """Python 3.10 has none, and those who ask for the types of methods need a name."""

        def __class_getitem__(cls, options: type) -> Any:
            """The type of one of the options, as far as it is known."""
            return Any


class _EachOptions(TextOptions, total=False):
    draft: GeneratesTexts | None
    edit: Edits | EditsOfEach | None
    max_kv_bytes: int | None


class _FileOptions(TextOptions, total=False):
    num_return_sequences: int


class _CallOptions(_EachOptions, total=False):
    progress: bool


class GeneratesTexts(ABC):
    """The generating methods of ``Model``."""

    @abstractmethod
    def _generating(self) -> GeneratingModel:
        """The model's parts that generation uses."""

    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompt, *, num_return_sequences: Literal[1] = 1, **options: Unpack[_CallOptions]
    ) -> Generation: ...
    @overload
    def generate(  # type: ignore[overload-overlap]  # a str is a sequence of them
        self, prompt: Prompt, *, num_return_sequences: int, **options: Unpack[_CallOptions]
    ) -> list[Generation]: ...
    @overload
    def generate(  # type: ignore[overload-overlap]
        self, prompt: Prompts, *, num_return_sequences: Literal[1] = 1, **options: Unpack[_CallOptions]
    ) -> list[Generation]: ...
    @overload
    def generate(
        self, prompt: Prompts, *, num_return_sequences: int, **options: Unpack[_CallOptions]
    ) -> list[list[Generation]]: ...
    @GenerationArguments.spelled_out(first=True)
    def generate(  # noqa: D417  # the others are documented by name
        self,
        prompt: Prompt | Prompts,
        *,
        draft: GeneratesTexts | None = None,
        edit: Edits | EditsOfEach | None = None,
        max_kv_bytes: int | None = None,
        progress: bool = True,
        **arguments: Any,
    ) -> Any:
        """Writes on from a prompt. Ctrl-C ends it within a token.

        Args:
            prompt: a str, a sequence of token ids (a flat list of ints is one prompt), or a list of prompts, which run
                together.
            max_new_tokens: the most tokens to write.
            do_sample: draw tokens; otherwise the most likely one is taken (the lowest id of equals), and
                ``temperature``, ``top_k``, ``top_p``, ``min_p`` and ``typical_p`` are checked but have no effect, but
                for a warning, as in transformers, and ``seed`` has none at all.
            temperature: scores are divided by it; above 0, without ``do_sample`` also 0.
            top_k: keep the k most likely tokens and all that tie with the last of them; 0: off.
            top_p: keep the fewest most likely tokens that have this probability together; above 0 to 1; 1: off.
            min_p: keep tokens at least this many times as likely as the most likely one; 0 to 1; 0: off.
            typical_p: locally typical sampling, the mass to keep; above 0 to 1; 1: off.
            repetition_penalty: scores of tokens in the prompt or the text are divided (if negative, multiplied) by it;
                1: off.
            presence_penalty: subtracted from the scores of tokens in the new text.
            frequency_penalty: subtracted once for each time the token is in the new text.
            no_repeat_ngram_size: bans tokens that would end a run of so many tokens which is in the prompt or the text
                already; 0: off.
            logit_bias: token id -> number added to its score; ``-inf`` bans a token.
            num_beams: beams of a beam search with transformers' rules; 1: none. Not with ``do_sample``.
            length_penalty: finished beams are ranked by log-probability / length ** length_penalty.
            early_stopping: True: end a search with ``num_beams`` finished texts; False: when better ones are unlikely;
                "never": when there can be no better ones.
            num_return_sequences: texts for each prompt: different draws, or the best of ``num_beams``, best first.
            stop: strings that end the text, wherever tokens begin and end; the text ends before them. Special tokens
                are no part of a text: they are for ``eos_token_id``.
            eos_token_id: the id, or ids, that end the text; None: those of the checkpoint's config.json.
            ignore_eos: do not end at ``eos_token_id``.
            seed: 0 to 2**64 - 1. The same seed gives the same text for a prompt, alone or in any batch; so equal
                prompts in a list get equal texts, and the draws of other prompts go together: for independent ones
                pass a list, a seed for each prompt. None: a random one for each, reported in ``Generation.seed``.
            logprobs: None: none. 0: log-probabilities of the new tokens. n: those of the n most likely tokens too.
            draft: a smaller model with the same tokenizer, whose proposals are checked several at a time (speculative
                decoding). The tokens stay the same. The vocab_size may differ, as Pythia's do, which pad it
                differently: a text with a token that the draft does not know goes on without proposals. Not with
                ``num_beams``.
            edit: functions that change activations, as in ``Session.run``: of each text they see those of the whole
                prompt, then those of each new token but the last. Texts run together: functions get an activation of
                each in turn before the next activation of any. A function for ``"logits"`` gets ``[1, vocab_size]``
                before each token and may change what that is chosen from, ``-inf`` ruling a token out; ``logprobs`` are
                those of what it leaves. For a list of prompts it may be a list, with the edits of each, or None. An
                open ``prefix_cache`` is left alone. Not with ``num_beams`` or a ``draft``.
            max_kv_bytes: the most memory for keys and values of texts that run at once, all beams of them; one may
                always run. None: half of what is free.
            progress: for a list, show a bar on standard error, in a terminal or notebook, if it takes over a second.

        The steps run in transformers' order: logit_bias, repetition_penalty, presence_penalty and frequency_penalty,
        no_repeat_ngram_size, temperature, top_k, top_p, min_p, typical_p.

        Returns:
            a Generation; for a list of prompts a list of them in the same order. With ``num_return_sequences`` above 1
            there is a list of Generations in place of each. Every one is, bit for bit, what it would be alone.

        Raises:
            ValueError: an argument out of its range, or a prompt that is empty, too long or has ids that are not the
                model's.
        """
        options = GenerationArguments.of(self.generate, arguments)
        model = self._generating()
        batch = is_batch("prompt", prompt)
        prompts = (
            [model.prompt(f"prompt[{i}]", p) for i, p in enumerate(prompt)]
            if batch
            else [model.prompt("prompt", prompt)]
        )
        if batch:
            options.check_seed(len(prompts))
        else:
            refuse_list_of_edits(edit)
            options.refuse_seeds()
        found: dict[int, list[Generation]] = {}
        shown = boolean("progress", progress) and batch
        with ProgressBar(len(prompts), what="generating", unit="text", enabled=shown) as bar:
            aids = self._aids(options, draft, edit, max_kv_bytes, len(prompts))
            coming = self._texts(prompts, options, aids)
            options.warn_of_unused()
            for index, texts in coming:
                found[index] = texts
                bar.update(1)
        results = [found[i][0] if options.num_return_sequences == 1 else found[i] for i in range(len(prompts))]
        return results if batch else results[0]

    @overload
    def generate_each(  # type: ignore[overload-overlap]
        self, prompts: Iterable[Prompt], *, num_return_sequences: Literal[1] = 1, **options: Unpack[_EachOptions]
    ) -> Iterator[tuple[int, Generation]]: ...
    @overload
    def generate_each(
        self, prompts: Iterable[Prompt], *, num_return_sequences: int, **options: Unpack[_EachOptions]
    ) -> Iterator[tuple[int, list[Generation]]]: ...
    @GenerationArguments.spelled_out()
    def generate_each(
        self,
        prompts: Iterable[Prompt],
        *,
        draft: GeneratesTexts | None = None,
        edit: Edits | EditsOfEach | None = None,
        max_kv_bytes: int | None = None,
        **arguments: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Writes on from any number of prompts and gives each result as soon as it is done, in no fixed order.

        Args:
            prompts: an iterable of str and sequences of token ids, taken from as there is room: millions of them need
                not be in memory.
            draft: as in ``generate``.
            edit: as in ``generate``; a list is as long as there are prompts, or longer.
            max_kv_bytes: as in ``generate``.
            **arguments: those of ``generate``, except ``progress``.

        Returns:
            an iterator over (the prompt's number, its Generation, or with ``num_return_sequences`` above 1 the list of
            them), each bit for bit what ``generate`` gives. Dropping it at any point is fine.

        Raises:
            ValueError: as ``generate``, at once; for a bad prompt when all before it are done.
        """
        model, options = self._generating(), GenerationArguments.of(self.generate_each, arguments)
        refuse_table("prompts", prompts, ".to_numpy()")
        several = iterator("prompts", prompts, "an iterable of prompts: pass [prompt], or use generate")
        alone = options.num_sequences() == 1
        checked = (model.prompt(f"prompts[{i}]", prompt) for i, prompt in enumerate(several))
        results = self._texts(checked, options, self._aids(options, draft, edit, max_kv_bytes))
        options.warn_of_unused()
        return ((index, texts[0] if alone else texts) for index, texts in results)

    @GenerationArguments.spelled_out()
    def generate_to_file(
        self,
        prompts: Iterable[Prompt | Mapping[str, Any]],
        path: str | os.PathLike[str],
        *,
        draft: GeneratesTexts | None = None,
        max_kv_bytes: int | None = None,
        progress: bool = True,
        **arguments: Unpack[_FileOptions],
    ) -> int:
        """``generate`` of many prompts into a file of JSON lines, one a prompt, in order, written as they come.

        A file that is there already is continued, as by ``score_to_file``: a run that was interrupted is called again
        as it was, and costs at most the texts on their way and those of the last second again. Records are those of an
        uninterrupted run, byte for byte, unless texts are drawn without a ``seed``.

        Every record has ``index``, ``id`` (if the prompt has one), ``model`` (``Model.key``), ``input`` (a hash of the
        prompt and the options), ``num_prompt_tokens``, ``text``, ``tokens``, ``finish_reason``, of drawn texts
        ``seed``, of beams ``beam_score``, and if asked for ``logprobs`` and ``top_logprobs`` (see Generation); with
        ``num_return_sequences`` above 1 it has these in a list ``texts``. ``pandas.read_json(path, lines=True)`` reads
        it.

        Args:
            prompts: any iterable, perhaps longer than memory, of prompts (a str or token ids), or of dicts with
                ``prompt`` and perhaps ``id``, a str or a number; other members are ignored.
            path: the file.
            draft: as in ``generate``.
            max_kv_bytes: as in ``generate``.
            progress: show a bar on standard error, in a terminal or notebook, if it takes longer than a second.
            **arguments: those of ``generate``, except ``edit``.

        Returns:
            how many records were added.

        Raises:
            ValueError: as ``generate``, for a bad prompt when those before it are written; a file whose records are of
                another model, of other prompts or options, or that another process writes.
            OSError: the file cannot be written.
        """
        options = GenerationArguments.of(self.generate_to_file, arguments)
        model = self._generating()
        model.check(options)
        aids = self._aids(options, draft, None, max_kv_bytes)
        options.warn_of_unused()
        return generate_to_file(model, prompts, path, options, aids, progress=boolean("progress", progress))

    def _texts(
        self, prompts: Iterable[list[int]], arguments: GenerationArguments, aids: Aids
    ) -> Iterator[tuple[int, list[Generation]]]:
        model = self._generating()
        model.check(arguments)
        return model.generate(prompts, arguments, aids)

    def _aids(
        self,
        arguments: GenerationArguments,
        draft: object,
        edit: Edits | EditsOfEach | None,
        max_kv_bytes: int | None = None,
        num_prompts: int | None = None,
    ) -> Aids:
        if draft is not None and not isinstance(draft, GeneratesTexts):
            raise ValueError(f"draft is of type {type(draft).__name__}, expected a Model, as pythia_cpu.load gives")
        helper = None if draft is None else draft._generating()
        return self._generating().aids(arguments, helper, edit, max_kv_bytes, num_prompts)

    @GenerationArguments.spelled_out("num_beams", "num_return_sequences", "length_penalty", "early_stopping")
    def stream(
        self,
        prompt: Prompt,
        *,
        draft: GeneratesTexts | None = None,
        edit: Edits | None = None,
        **arguments: Unpack[StreamOptions],
    ) -> TokenStream:
        """Writes on from one prompt, token by token.

        Args:
            prompt: a str or a sequence of token ids.
            draft: as in ``generate``; tokens then come several at a time, and the stream's ``draft_acceptance`` says in
                the end how many of its proposals were accepted.
            edit: as in ``generate``.
            **arguments: those of ``generate``, except ``num_return_sequences``, ``num_beams``, ``max_kv_bytes`` and
                ``progress``.

        Returns:
            an iterator over Token, whose texts join to what ``generate`` gives as ``.text``. Tokens always have their
            ``logprob``.

        Raises:
            ValueError: as ``generate``, at once and not with the first token.
        """
        if is_batch("prompt", prompt):
            raise ValueError(
                "prompt is a list of prompts, but a stream writes one text: pass one prompt, or use generate"
            )
        refuse_list_of_edits(edit)
        model, options = self._generating(), GenerationArguments.of(self.stream, arguments)
        stream = model.stream(model.prompt("prompt", prompt), options, self._aids(options, draft, edit))
        options.warn_of_unused()
        return stream

    def prefix_cache(self, max_bytes: int) -> PrefixCache:
        """From now on keeps keys and values of generated texts, so that later prompts (``generate``, ``generate_each``,
        ``stream``) that begin with the same tokens do not compute them again. Results stay the same, bit for bit. Beam
        searches do not use it.

        Args:
            max_bytes: the most memory for them; what was not used for the longest time is dropped.

        Returns:
            the cache, to look at and to close; until then, or until the next call, it is in use.

        Raises:
            ValueError: ``max_bytes`` is below 1.
        """
        return self._generating().prefix_cache(max_bytes)
