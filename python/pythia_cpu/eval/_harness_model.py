"""The model that the harness calls. What it computes is what the harness's own HFLM (lm_eval 0.4.13) does."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from tqdm import tqdm

import pythia_cpu
from pythia_cpu import _core
from pythia_cpu._arguments import boolean, integer
from pythia_cpu._dtypes import weights_for
from pythia_cpu._edits import Edits
from pythia_cpu._identity import model_key
from pythia_cpu._load import shipped_model
from pythia_cpu._score_run import IdsRequest
from pythia_cpu._source import revision_name
from pythia_cpu.eval._generation import GenerationRequest
from pythia_cpu.eval._model_arguments import refuse_unsupported
from pythia_cpu.eval._result_cache import ResultCache
from pythia_cpu.hf._tokenizer_files import special_tokens

_logger = logging.getLogger(__name__)

_OWNER = "pythia-cpu"  # names the model in the harness's own cache; other keys of it are hashes
_SAVE_PERIOD_S = 5.0
_TEXTS_PER_SAVE = 64  # texts that run together; those of one call are saved together


@register_model("pythia-cpu")
class HarnessModel(TemplateLM):  # type: ignore[misc]  # the harness has no types for mypy
    """A pythia-cpu model for ``lm_eval.simple_evaluate(model="pythia-cpu", model_args=...)``.

    Requests of a call run together: in full passes of the model, contexts that they share computed once. Each result
    is, bit for bit, what it would be alone.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike[str] | pythia_cpu.Checkpoint | pythia_cpu.Model | None = None,
        *,
        revision: str | int | None = None,
        weights: str | None = None,
        dtype: object = None,
        threads: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        prefix_token_id: int | None = None,
        add_bos_token: bool = False,
        result_cache: str | os.PathLike[str] | None = None,
        seed: int = 1234,
        edit: Edits | None = None,
        **others: object,
    ) -> None:
        """Opens the model.

        Args:
            pretrained: what ``pythia_cpu.load`` takes, or a ``pythia_cpu.Model``. There is no default: that would be
                the small model inside the package.
            revision: as in ``load``.
            weights: as in ``load``; None: as dtype says.
            dtype: HFLM's way to name the stored weights: None, "auto" and float32 keep every value of the checkpoint,
                or of the ``.pcpu`` file, exactly; float16 and bfloat16 round to these. Calculations are in float32
                always.
            threads: as in ``load``.
            cache_dir: as in ``load``: where converted checkpoints are kept.
            max_length: tokens of a window; None: the model's context.
            max_gen_toks: tokens that a generated text has at most, where a task does not say.
            prefix_token_id: what stands for an empty context; None: the tokenizer's bos_token_id, else eos_token_id.
                Where it has none, of a ``.pcpu`` file or a Model, whose tokenizer does not tell, and of a converted
                checkpoint whose files are not here, config.json's.
            add_bos_token: begin every text with that bos_token_id.
            result_cache: a file to keep results in, by checkpoint and weight format; made if it is missing. An
                evaluation that was interrupted resumes. (``simple_evaluate``'s own ``use_cache`` keeps
                results by request alone: its file serves one model, and is refused for any other.)
            seed: of texts that a task asks to sample: the same seed gives the same texts. Texts for one prompt differ.
            edit: functions that change activations, as in ``Model.score`` and ``Model.generate``: a task under an
                ablation. From Python only, and without caches of results, which do not know functions apart.
                ``pythia-eval --seed`` gives it the seed that it has for torch.
            **others: other arguments of HFLM, where they change no number, such as ``batch_size`` and ``device``,
                which the harness's commands pass to every model.

        Raises:
            ValueError: a bad argument, and what ``load`` raises.
        """
        super().__init__()
        refuse_unsupported(others, pretrained)
        weights = weights_for(dtype, weights)
        if pretrained is None or pretrained == "":
            raise ValueError(
                "pretrained is missing: name a hub id (pretrained=EleutherAI/pythia-14m), a checkpoint's folder or a "
                f".pcpu file; the small model inside the package is {shipped_model()}"
            )
        if isinstance(pretrained, pythia_cpu.Checkpoint):
            pretrained = pythia_cpu.load(
                pretrained, revision=revision, weights=weights, threads=threads, cache_dir=cache_dir
            )
            revision = threads = cache_dir = None
        if isinstance(pretrained, pythia_cpu.Model):
            self.model: pythia_cpu.Model = pretrained
            for name, value in {"revision": revision, "threads": threads, "cache_dir": cache_dir}.items():
                if value is not None:
                    raise ValueError(f"{name} is {value!r}, but the model is loaded already: leave it out")
            if weights not in ("auto", stored := pretrained.provenance["weights"]):
                raise ValueError(f"weights is {weights!r}, but the model holds {stored!r} weights: load it again")
        else:
            self.model = pythia_cpu.load(
                pretrained, revision=revision, weights=weights, threads=threads, cache_dir=cache_dir
            )
        if edit is not None and result_cache is not None:
            raise ValueError("result_cache keeps results by model, and edit changes it: leave out one of them")
        self._edit = edit
        self._scoring = self.model._scoring().edited(edit)
        context_length = self.model.context_length
        self.max_length: int = context_length
        if max_length is not None:
            self.max_length = integer("max_length", max_length, 1, context_length)
        self.max_gen_toks: int = integer("max_gen_toks", max_gen_toks, 0)
        tokens = {} if isinstance(pretrained, pythia_cpu.Model) else special_tokens(pretrained, revision_name(revision))
        ids = self.model.tokenizer._tokenizer.get_vocab(with_added_tokens=True) if tokens else {}
        bos, eos = (ids.get(tokens.get(name) or "") for name in ("bos_token", "eos_token"))
        if bos is None and eos is None:
            bos, eos = self.model.config.bos_token_id, self.model.tokenizer.eos_token_id
        self._eos_token_id = eos
        prefix = prefix_token_id if prefix_token_id is not None else bos if bos is not None else eos
        if prefix is None:
            raise ValueError("the checkpoint has neither bos_token_id nor eos_token_id: pass prefix_token_id")
        self._prefix_token_id = integer("prefix_token_id", prefix, 0, self.model.config.vocab_size - 1)
        add_bos = add_bos_token == 1 if add_bos_token in (0, 1) else boolean("add_bos_token", add_bos_token)
        if add_bos and bos is None:
            raise ValueError("add_bos_token is True, but the checkpoint has no bos_token_id: leave it out")
        self._first_tokens = [bos] if add_bos and bos is not None else []
        self._seed = integer("seed", seed, 0)
        self._cache = None if result_cache is None else ResultCache(result_cache, model_key(self._scoring.core.file))

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._prefix_token_id if self._eos_token_id is None else self._eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What stands for an empty context."""
        return self._prefix_token_id

    @property
    def tokenizer_name(self) -> str:
        """Names the tokenizer in the harness's cache of prompts."""
        return str(self.model.provenance["source"]).replace("/", "__")

    def __repr__(self) -> str:
        """The model."""
        return f"HarnessModel({self.model!r})"

    def get_model_info(self) -> dict[str, object]:
        """What the harness writes beside its results: which weights, how they are stored, and the engine."""
        provenance = self.model.provenance
        facts = {f"model_{name}": provenance[name] for name in ("source", "revision", "commit", "weights")}
        if provenance["edited"]:
            facts["model_edited"] = provenance["edited"]
        return {
            **facts,
            "model_key": model_key(self._scoring.core.file),
            "engine": f"pythia-cpu {pythia_cpu.__version__}",
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Takes the harness's own cache, the file of ``simple_evaluate(use_cache=...)``.

        Raises:
            ValueError: its results are those of another model or of other model_args.
        """
        results = cache_hook.dbdict
        if results is not None and self._edit is not None:
            raise ValueError("use_cache keeps results by model, and edit changes it: leave out one of them")
        if results is not None:
            settings = [self.max_length, self.max_gen_toks, self._prefix_token_id, self._first_tokens]
            owner = [model_key(self._scoring.core.file), *settings]
            if len(results) == 0:
                results[_OWNER] = owner
            elif results.get(_OWNER) != owner:
                raise ValueError(
                    f"use_cache: {results.filename} has results of another model, weight format or other model_args: "
                    "name another file, or use result_cache in model_args, which tells them apart"
                )
        super().set_cache_hook(cache_hook)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Refuses: a converted checkpoint has no template.

        Raises:
            ValueError: always.
        """
        raise ValueError("apply_chat_template is set, but pythia-cpu has no chat templates: leave it out")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, left_truncate_len: int | None = None, **_: object
    ) -> list[int]:
        """Token ids of a text; of the last ``left_truncate_len``, if that is given."""
        first = self._first_tokens
        if add_special_tokens is False or (add_special_tokens is None and string.startswith(self._prefix_text())):
            first = []
        ids = first + self._scoring.tokenizer.encode(string)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def encode_context(self, context: str, room: int) -> list[int]:
        """The last ``room`` token ids of a text to write on from. One that begins with the BOS gets no other, as with
        HFLM (``tok_encode`` looks for what stands for an empty context).
        """
        begun = bool(self._first_tokens) and context.startswith(self._text_of(self._first_tokens[0]))
        return self.tok_encode(context, add_special_tokens=not begun, left_truncate_len=room)

    def _prefix_text(self) -> str:
        return self._text_of(self._prefix_token_id)

    def _text_of(self, id: int) -> str:
        return self._scoring.tokenizer.decode([id], skip_special_tokens=False)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: object,
    ) -> list[tuple[float, bool]]:
        """(log-likelihood, whether greedy decoding would write it) of each continuation, given its context.

        What does not fit the window is cut from the context's left: ``(context + continuation)[-(max_length + 1):]``.
        """
        windows = [self._window(context, continuation) for _, context, continuation in requests]
        cut = sum(len(context) + len(one) > self.max_length + 1 for _, context, one in requests)
        if cut:
            _logger.warning("%d of %d contexts are cut from the left to fit the window", cut, len(windows))

        def on_result(number: int, result: list[Any]) -> None:
            texts = requests[number][0]
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, (result[0], bool(result[1])))

        results = self._score("loglikelihood", [[window] for window in windows], not disable_tqdm, on_result)
        return [(total, bool(greedy)) for total, greedy in results]

    def _window(self, context: list[int], continuation: list[int]) -> IdsRequest:
        if not continuation:
            raise ValueError("a continuation has no tokens, expected at least one")
        if len(continuation) > self.max_length:
            raise ValueError(
                f"a continuation has {len(continuation)} tokens, the window holds {self.max_length}: shorten it"
            )
        tokens = ((context or [self._prefix_token_id]) + continuation)[-(self.max_length + 1) :]
        return tokens, len(tokens) - len(continuation)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, over the harness's rolling windows."""
        texts = [request.args[0] for request in requests]
        windows = [
            _core.rolling_windows(self.tok_encode(text), self._prefix_token_id, self.max_length) for text in texts
        ]

        def on_result(number: int, result: list[Any]) -> None:
            self.cache_hook.add_partial("loglikelihood_rolling", (texts[number],), result[0])

        return [total for total, _ in self._score("loglikelihood_rolling", windows, not disable_tqdm, on_result)]

    def _score(
        self, kind: str, groups: list[list[IdsRequest]], progress: bool, on_result: Any
    ) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, all greedy) of each group of windows. Results are saved every few seconds."""
        results: list[Any] = [self._cache.get(kind, windows) if self._cache else None for windows in groups]
        missing = [number for number, result in enumerate(results) if result is None]
        owners = [number for number in missing for _ in groups[number]]
        left = Counter(owners)
        parts: dict[int, list[float]] = {number: [] for number in missing}
        greedy = dict.fromkeys(missing, True)

        def end(number: int) -> None:
            results[number] = [math.fsum(parts.pop(number)), greedy[number]]
            if self._cache:
                self._cache.put(kind, groups[number], results[number])
            on_result(number, results[number])

        for number in missing:
            if not groups[number]:  # a text without tokens
                end(number)
        saved_s = time.monotonic()
        requests = [window for number in missing for window in groups[number]]
        try:
            for i, scores in self._scoring.run_each(requests, progress=progress):
                number = owners[i]
                parts[number] += scores.logprobs.tolist()
                greedy[number] = greedy[number] and not scores.ranks.any()
                left[number] -= 1
                if left[number] == 0:
                    end(number)
                if self._cache and time.monotonic() - saved_s > _SAVE_PERIOD_S:
                    self._cache.commit()
                    saved_s = time.monotonic()
        finally:
            if self._cache:
                self._cache.commit()
        return [(total, bool(is_greedy)) for total, is_greedy in results]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that follow contexts, each up to the first of its stop strings.

        A context that leaves no room for ``max_gen_toks`` is cut from the left.
        """
        repeats: Counter[str] = Counter()
        prepared = []
        for request in requests:
            one = GenerationRequest.prepare(self, *request.args)
            repeats[one.key] += 1
            prepared.append(one.with_seed(self._seed, repeats[one.key] - 1))
        results = [self._cache.get("generate_until", one.key) if self._cache else None for one in prepared]
        batches: dict[str, list[int]] = {}
        for number, one in enumerate(prepared):
            if results[number] is None:
                batches.setdefault(json.dumps(one.options, sort_keys=True), []).append(number)
        with tqdm(total=sum(map(len, batches.values())), desc="generating", disable=disable_tqdm) as bar:
            for numbers in batches.values():
                for begin in range(0, len(numbers), _TEXTS_PER_SAVE):
                    batch = numbers[begin : begin + _TEXTS_PER_SAVE]
                    contexts = [prepared[n].context for n in batch]
                    texts = self.model.generate(contexts, edit=self._edit, **prepared[batch[0]].options)
                    for number, text in zip(batch, texts, strict=True):
                        results[number] = prepared[number].finish(self, text)
                        if self._cache:
                            self._cache.put("generate_until", prepared[number].key, results[number])
                        self.cache_hook.add_partial("generate_until", requests[number].args, results[number])
                    if self._cache:
                        self._cache.commit()
                    bar.update(len(batch))
        return [str(result) for result in results]
