"""What generation needs of a model, and the ways to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pythia_cpu import _core
from pythia_cpu._arguments import integer, sequence_ids, unwrapped
from pythia_cpu._beam_search import beam_search
from pythia_cpu._coming import Coming
from pythia_cpu._edits import Activation, Editor, Edits, EditsOfEach
from pythia_cpu._generation import Generation
from pythia_cpu._generation_arguments import GenerationArguments
from pythia_cpu._lazy import lazy_property
from pythia_cpu._prefix_cache import PrefixCache
from pythia_cpu._token_stream import TokenStream
from pythia_cpu._tokenizer import Tokenizer

_MIN_WAITING = 256  # requests that are ready when others end


@dataclass
class _Texts:
    """The texts of one prompt, as they come."""

    index: int
    prompt: list[int]
    seed: int
    done: dict[int, Generation] = field(default_factory=dict)


@dataclass(frozen=True)
class Aids:
    """What generation can use beside the model and its prompts, checked.

    Attributes:
        draft: a model that proposes tokens.
        editor: the edits, by the numbers of prompts.
        max_kv_bytes: the most memory for keys and values; 0: half of the free memory.
    """

    draft: GeneratingModel | None = None
    editor: Editor | None = None
    max_kv_bytes: int = 0


class GeneratingModel:
    """What generation needs of a model; ``Model`` has one."""

    def __init__(self, core: _core.Model, tokenizer: Tokenizer, eos_token_ids: Sequence[int]) -> None:
        """``Model`` makes these; ``eos_token_ids`` end texts where a call does not say."""
        self.core = core
        self.tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._prefix_cache: _core.PrefixCache | None = None
        config = core.file.config
        self._vocab_size: int = config["vocab_size"]
        self._context_length: int = config["max_position_embeddings"]

    @lazy_property
    def _engine(self) -> _core.GenerationEngine:
        return _core.GenerationEngine(self.core)

    def prefix_cache(self, max_bytes: object) -> PrefixCache:
        """``Model.prefix_cache``."""
        cache = _core.PrefixCache(self.core, integer("max_bytes", max_bytes, 1))
        self._prefix_cache = cache

        def close() -> None:
            if self._prefix_cache is cache:
                self._prefix_cache = None

        return PrefixCache(cache, close)

    def prompt(self, name: str, prompt: object) -> list[int]:
        """A prompt's token ids, checked."""
        ids = unwrapped(prompt)
        if isinstance(ids, str):
            try:
                ids = self.tokenizer.encode(ids)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        what = "a str or a list of token ids"
        checked: list[int] = sequence_ids(name, ids, self._vocab_size, self._context_length, what=what).tolist()
        return checked

    def check(self, arguments: GenerationArguments) -> None:
        """Refuses arguments that fit no prompt."""
        arguments.num_sequences()
        arguments.check_seed()
        request = arguments.request(self._eos_token_ids)
        arguments.beams(request["eos_token_ids"])
        generator = self._generator(Aids())  # never run
        generator.add([0], **request, seed=0, num_logprobs=arguments.num_logprobs())

    def aids(
        self,
        arguments: GenerationArguments,
        draft: GeneratingModel | None,
        edit: Edits | EditsOfEach | None,
        max_kv_bytes: int | None = None,
        num_prompts: int | None = None,
    ) -> Aids:
        """Refuses aids that do not fit each other, the arguments or the model."""
        if draft is not None:
            self._check_draft(draft)
        beams = arguments.num_beams
        all_aids = {f"num_beams={beams}": beams != 1, "a draft": draft is not None, "edit": edit is not None}
        given = [name for name, is_given in all_aids.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} do not go together, expected one of them only")
        return Aids(
            draft,
            None if edit is None else Editor(edit, self.core.hook_names, num_texts=num_prompts),
            0 if max_kv_bytes is None else integer("max_kv_bytes", max_kv_bytes, 1),
        )

    def _check_draft(self, draft: GeneratingModel) -> None:
        if not draft.tokenizer.tokenizes_as(self.tokenizer):
            raise ValueError("the draft has another tokenizer than the model, expected two models with the same one")

    def stream(self, prompt: list[int], arguments: GenerationArguments, aids: Aids) -> TokenStream:
        """``Model.stream``."""
        generator = self._generator(aids)
        return TokenStream(generator, prompt, arguments, self._eos_token_ids)

    def generate(
        self, prompts: Iterable[list[int]], arguments: GenerationArguments, aids: Aids
    ) -> Iterator[tuple[int, list[Generation]]]:
        """Each prompt's number and its ``num_return_sequences`` texts, as they are done. Prompts are taken from the
        iterable as there is room.
        """
        count = arguments.num_sequences()
        if arguments.num_beams > 1:
            yield from self._search(prompts, arguments, count, aids)
            return
        request, num_logprobs = arguments.request(self._eos_token_ids), arguments.num_logprobs()
        generator = self._generator(aids, count)
        coming = Coming(prompts)
        running: dict[int, tuple[_Texts, int]] = {}  # request -> texts of its prompt, which of them
        while True:
            while generator.num_waiting < _MIN_WAITING and (following := coming.take()) is not None:
                texts = _Texts(*following, arguments.draw_seed(following[0]))
                for sequence in range(count):
                    number = generator.add(
                        texts.prompt, **request, seed=texts.seed, sequence=sequence, num_logprobs=num_logprobs
                    )
                    running[number] = texts, sequence
            finished = generator.next_finished()
            if not finished:
                coming.finish()
                return
            for number, tokens, text, logprobs, top, finish_reason, proposed, accepted in finished:
                texts, sequence = running.pop(number)
                texts.done[sequence] = Generation(
                    text=text,
                    tokens=tokens,
                    prompt_tokens=list(texts.prompt),
                    finish_reason=finish_reason,
                    logprobs=logprobs if num_logprobs >= 0 else None,
                    top_logprobs=top if num_logprobs > 0 else None,
                    seed=texts.seed if arguments.do_sample else None,
                    draft_acceptance=accepted / proposed if proposed else None,
                )
                if len(texts.done) == count:
                    yield texts.index, [texts.done[i] for i in range(count)]

    def _generator(self, aids: Aids, num_texts: int = 1) -> _core.Generator:
        """``num_texts``: requests for each prompt, which follow each other."""
        inspector = None
        if (editor := aids.editor) is not None:

            def edited(request: int, name: str, array: Activation) -> Activation | None:
                return editor.apply(request // num_texts, name, array)

            inspector = editor.names, edited
        return _core.Generator(
            self._engine,
            max_kv_bytes=aids.max_kv_bytes,
            draft=None if aids.draft is None else aids.draft.core,
            prefix_cache=None if inspector else self._prefix_cache,  # what edits changed is for nobody else
            inspector=inspector,
        )

    def _search(
        self, prompts: Iterable[list[int]], arguments: GenerationArguments, count: int, aids: Aids
    ) -> Iterator[tuple[int, list[Generation]]]:
        """The ``count`` best texts of a beam search for each prompt, best first."""
        options = arguments.beams(arguments.eos_token_ids(self._eos_token_ids))
        most = self._generator(aids).max_kv_bytes
        searches = beam_search(self.core, self.tokenizer, prompts, options, most)
        for index, prompt, hypotheses in searches:
            yield (
                index,
                [
                    Generation(
                        text=one.text,
                        tokens=one.tokens,
                        prompt_tokens=list(prompt),
                        finish_reason=one.finish_reason,
                        logprobs=one.logprobs,
                        top_logprobs=one.top_logprobs,
                        beam_score=float(one.score),
                    )
                    for one in hypotheses[:count]
                ],
            )
