"""Models with transformers' calls."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from pythia_cpu._arguments import integer
from pythia_cpu._checkpoint import Checkpoint
from pythia_cpu._dtypes import weights_for
from pythia_cpu._hub_access import using_hub
from pythia_cpu._load import load
from pythia_cpu._model import Config, Model
from pythia_cpu._options import refuse_unknown
from pythia_cpu.hf._arrays import id_rows, is_torch, to_torch
from pythia_cpu.hf._forward import CausalLMOutput, check_positions, forward, rows_and_spans
from pythia_cpu.hf._generate import GenerationConfig, default_options, generate, set_options, stored_options
from pythia_cpu.hf._generation_file import read_generation_config
from pythia_cpu.hf._offline import offline
from pythia_cpu.hf._past import PastKeyValues, as_past
from pythia_cpu.hf._scores import transition_scores
from pythia_cpu.hf._torch_module import TorchModule

_LOADING_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "attn_implementation": (),
    "low_cpu_mem_usage": (),
    "use_safetensors": (),
    "trust_remote_code": (),  # no code of a checkpoint ever runs
    "device_map": ("cpu", "auto", {"": "cpu"}),
    "force_download": (False,),
    "use_cache": (),
    "load_in_8bit": (False,),
    "load_in_4bit": (False,),
    "return_dict": (True,),
    "resume_download": (),
    "subfolder": ("",),
    "output_loading_info": (False,),
}
_OUTPUTS = "output_hidden_states", "output_attentions"  # settings of config, which a call falls back to
_TENSORS = "tensors, by name: tensors['gpt_neox.embed_in.weight']; config.num_hidden_layers counts layers"
_UNEMBED = "unembed(residuals), the final LayerNorm and the head, for hidden_states of any layer, and tensors"
_INSTEAD_OF_HOOKS = "tensors, and in place of hooks run(tokens, capture=['blocks.0.hook_resid_post'], edit={...})"
_INSTEAD_OF = {
    **dict.fromkeys(("gpt_neox", "base_model", "transformer", "get_input_embeddings", "get_parameter"), _TENSORS),
    **dict.fromkeys(("embed_out", "lm_head", "final_layer_norm", "get_output_embeddings"), _UNEMBED),
    "save_pretrained": "tensors to save; the checkpoint that it was made of is as it was",
    "load_state_dict": "the weights it was loaded with: pythia_cpu.load(pythia_cpu.open_checkpoint(source).edited("
    "state_dict)) has others, and GPTNeoXForCausalLM(model) wraps it",
    "get_memory_footprint": "its file in path",
    "tie_weights": "weights that are tied as the checkpoint's config.json says",
}
_FORWARD_WITHOUT_EFFECT: dict[str, tuple[object, ...]] = {
    "return_dict": (True,),
    "token_type_ids": (),
}


class GPTNeoXForCausalLM(TorchModule):
    """A model with transformers' calls around a ``pythia_cpu.Model``.

    Attributes:
        model: the pythia_cpu.Model, with everything that transformers has no name for.
        generation_config: the options of ``generate`` that a call leaves out; may be set and changed.
    """

    def __init__(
        self, model: Model, generation_options: Mapping[str, Any] | None = None, name_or_path: str | None = None
    ) -> None:
        """Wraps a model that ``pythia_cpu.load`` gave, with options of ``generate`` as its checkpoint has them, and the
        name under which it was asked for.
        """
        self.model = model
        self._name_or_path = name_or_path or model.path
        # Checkpoints without a generation_config.json have such options in config.json.
        options = model.config if generation_options is None else generation_options
        self.generation_config: Any = GenerationConfig(**stored_options(options))
        model.config.setdefault("is_encoder_decoder", False)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint,
        *,
        revision: str | int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        dtype: Any = None,
        torch_dtype: Any = None,
        weights: str | None = None,
        threads: int | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        use_auth_token: str | bool | None = None,
        **others: Any,
    ) -> GPTNeoXForCausalLM:
        """Loads a checkpoint; it is converted once and kept in the cache. Its generation_config.json is read too.

        Args:
            pretrained_model_name_or_path: a checkpoint folder, a hub id, a ``.pcpu`` file, or what
                ``pythia_cpu.open_checkpoint`` returned, perhaps ``edited``.
            revision: branch, tag, commit, or a training step as an int.
            cache_dir: where downloads and converted checkpoints are kept; None: where HF_HOME says, and where
                ``pythia_cpu.load`` keeps them.
            dtype: of the stored weights: None, "auto" or float32 keep every value of the checkpoint, or of the
                ``.pcpu`` file, exactly; float16 and bfloat16 round to these. Calculations are in float32 always.
            torch_dtype: the old name of dtype.
            weights: as in ``pythia_cpu.load``, instead of dtype: "q8" and "q4" too.
            threads: threads of a forward pass; None means the physical cores this process may use.
            tokenizer: of a folder without ``tokenizer.json``: another one's, as in ``pythia_cpu.load``.
            local_files_only: do not ask the hub; read what was downloaded before.
            token: a user's token for the hub; None: the one that its client has stored, False: none.
            use_auth_token: the old name of token.
            **others: ``output_hidden_states`` and ``output_attentions``, which ``config`` then has; other options of
                transformers, where they change nothing.

        Raises:
            ValueError: an option that is not supported.
            CheckpointError, FormatError, OSError: as ``pythia_cpu.load``.
        """
        settings = {name: bool(others.pop(name)) for name in _OUTPUTS if others.get(name) is not None}
        refuse_unknown("from_pretrained", others, _LOADING_WITHOUT_EFFECT)
        stored = weights_for(torch_dtype if dtype is None else dtype, weights)
        token = use_auth_token if token is None else token
        with offline(local_files_only), using_hub(cache_dir=cache_dir, token=token):
            model = load(
                pretrained_model_name_or_path,
                revision=revision,
                weights=stored,
                threads=threads,
                cache_dir=cache_dir,
                tokenizer=tokenizer,
            )
            source = pretrained_model_name_or_path
            if isinstance(source, Checkpoint):
                source = source.folder
            options = read_generation_config(source, revision)
        model.config.update(settings)
        return cls(model, options, os.fspath(source))

    def __getattr__(self, name: str) -> Any:
        """Says what this is, for what a torch module would have."""
        raise AttributeError(
            f"pythia_cpu's GPTNeoXForCausalLM has no {name!r}: it is no torch module and works for inference only; its "
            f"attribute 'model' is a pythia_cpu.Model, which has {_INSTEAD_OF.get(name, _INSTEAD_OF_HOOKS)}"
        )

    @property
    def config(self) -> Config:
        """The checkpoint's hyperparameters."""
        return self.model.config

    @property
    def name_or_path(self) -> str:
        """What the model was loaded from, and can be again."""
        return self._name_or_path

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        labels: Any = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        cache: Any = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutput:
        """Logits of every position.

        Args:
            input_ids: ids ``[batch, length]``: list, array or torch tensor.
            attention_mask: 1 for tokens, 0 for padding on either side, ``[batch, length]``; None: all are tokens. A row
                gets the logits that it has alone.
            labels: ids ``[batch, length]`` to predict, usually ``input_ids``; -100 is left out of the loss, and must be
                where there is padding. Entry i is compared with the prediction after token i - 1, as in transformers;
                that of the first token after padding with none.
            output_hidden_states: give ``hidden_states`` too, which is slower; None: as ``config`` says, else False.
            output_attentions: give ``attentions`` too, which is slower; None: likewise.
            position_ids: those that tokens have anyway, one more from token to token.
            past_key_values: of the output of an earlier call, whose rows go on with ``input_ids``; ``attention_mask``
                is that of all columns then. It grows.
            cache: the same, under the name that it has from transformers 5.24 on.
            use_cache: False: the output has no ``past_key_values``.
            logits_to_keep: give logits of so many columns at the end only, which takes less time; 0: of all. Not with
                ``labels``.
            **others: other options of transformers, where they change nothing.

        Raises:
            ValueError: as ``pythia_cpu.Model.logits``; a mask with holes; an option that is not supported.
        """
        refuse_unknown("forward", others, _FORWARD_WITHOUT_EFFECT)
        if cache is not None:
            if past_key_values is not None:
                raise ValueError("both past_key_values and cache are given, expected one of them: they are the same")
            past_key_values = cache
        if past_key_values is None:
            past = sessions = None
            rows, spans = rows_and_spans(input_ids, attention_mask)
        else:
            past = as_past(past_key_values)
            rows, spans = rows_and_spans(input_ids, None)
            past.check(self.model, rows, attention_mask, position_ids)
            sessions = past.sessions
        if position_ids is not None and past is None:
            check_positions(position_ids, rows, spans)
        wanted = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        states, patterns = (self.config.get(name, False) if is_on is None else is_on for name, is_on in wanted.items())
        num_logits = integer("logits_to_keep", logits_to_keep, 0)
        if num_logits and labels is not None:
            raise ValueError(
                f"logits_to_keep is {num_logits} with labels, which need all logits: leave one of them out"
            )
        read_again = None if use_cache is False else functools.partial(PastKeyValues.of, self.model, rows, spans)
        with contextlib.nullcontext() if past is None else past.growing(rows.shape[1]):
            return forward(
                self.model,
                rows,
                spans,
                None if labels is None else id_rows("labels", labels),
                hidden_states=bool(states),
                attentions=bool(patterns),
                num_logits=min(num_logits or rows.shape[1], rows.shape[1]),
                convert=to_torch if is_torch(input_ids) else np.asarray,
                sessions=sessions,
                past=past or read_again,
            )

    forward = __call__

    def generate(
        self,
        inputs: Any = None,
        generation_config: Any = None,
        *,
        input_ids: Any = None,
        attention_mask: Any = None,
        **options: Any,
    ) -> Any:
        """Prompts and what follows them.

        An option that is not given is taken from ``generation_config``, then from ``self.generation_config``. None
        counts as given; in the two configs it does not.

        Args:
            inputs: prompts ``[batch, length]``: list, array or torch tensor.
            generation_config: options as attributes of a GenerationConfig, this module's or transformers', or as a
                dict.
            input_ids: another name of ``inputs``.
            attention_mask: 1 for tokens, 0 for padding on either side; each row gets the text that it has alone. None:
                all are tokens, or where ``pad_token_id`` is among them and is no end-of-text id, all others, as in
                transformers.
            **options:
                max_length: the most ids in a row, prompt and padding included.
                max_new_tokens: the most new tokens; this or ``max_length``; neither: 20, as in transformers.
                min_new_tokens: ``eos_token_id`` cannot come before so many new tokens; ``min_length`` counts the prompt
                    too. Less than ``max_new_tokens`` not with ``num_beams``.
                do_sample: draw tokens; otherwise the most likely one is taken, and filters have no effect.
                top_k: keep the k most likely tokens; 50, as in transformers; 0 or None: all.
                num_return_sequences: rows for each prompt, one after the other.
                eos_token_id: the id, or ids, that end a row; None: there is none. Not given: the checkpoint's.
                pad_token_id: fills rows that ended early; None: the first end-of-text id.
                stop_strings: end a row with the token that completes one of them, which may begin in the prompt; beams
                    that do so are found at the end of the search only.
                stopping_criteria: functions of the ids so far ``[rows, length]``, padding included, and the last
                    scores, called after each new token of all rows; they say of each row, or of all, whether it ends.
                logits_processor: functions of the ids so far ``[rows, length]``, padding included, and of scores
                    ``[rows, vocab_size]``, called before each new token of all rows, after penalties and before
                    temperature and filters; they give the scores to choose from. Scores of rows that have ended are
                    zeros.
                prefix_allowed_tokens_fn: a function of a prompt's number and a row's ids ``[length]``, padding
                    included, that gives the ids that may follow.
                assistant_model: a smaller model that proposes tokens, as ``draft`` of ``pythia_cpu.Model.generate``.
                max_time: seconds after which no more tokens are begun.
                suppress_tokens: ids that never come.
                bad_words_ids: lists of ids that never come one after the other.
                streamer: gets the ids of the only prompt and then each new one, by ``put``, and ``end`` (transformers'
                    TextStreamer); not with ``num_beams``.
                return_dict_in_generate: give a GenerateOutput, with ``output_logits`` or ``output_scores`` also what
                    each new token was chosen from, for which all rows are computed once more, not with ``num_beams``;
                    zeros where a row has come to the context's end.
                temperature, top_p, min_p, typical_p, repetition_penalty, no_repeat_ngram_size, seed, num_beams,
                    length_penalty, early_stopping: as in ``pythia_cpu.Model.generate``. Without ``seed``, that is drawn
                    from torch's generator if ``inputs`` is a torch tensor: torch.manual_seed makes texts repeatable,
                    though not those of transformers. Prompts draw apart: prompt i has seed + i, for all its
                    ``num_return_sequences``.
                Others of transformers are accepted where they change nothing.

        Returns:
            int64 ``[batch * num_return_sequences, length]``, a torch tensor where ``inputs`` is one.

        Raises:
            ValueError: as ``pythia_cpu.Model.generate``; a mask with holes; an option that is not supported.
        """
        if inputs is not None and input_ids is not None:
            raise ValueError("both inputs and input_ids are given, expected one of them: they are the same")
        given = {**default_options(self.generation_config), **set_options(generation_config), **options}
        return generate(self.model, input_ids if inputs is None else inputs, attention_mask, given)

    def compute_transition_scores(
        self, sequences: Any, scores: Any, beam_indices: Any = None, normalize_logits: bool = False
    ) -> Any:
        """The scores of the tokens that were chosen.

        Args:
            sequences: as ``generate`` gives them.
            scores: likewise, of ``output_scores`` or ``output_logits``.
            beam_indices: None.
            normalize_logits: of log-probabilities instead of the scores themselves.

        Returns:
            float32 ``[rows, num_steps]``, a torch tensor where ``sequences`` is one.

        Raises:
            ValueError: ``beam_indices`` are given.
        """
        return transition_scores(sequences, scores, beam_indices, normalize_logits)

    def __repr__(self) -> str:
        """What is inside."""
        return f"GPTNeoXForCausalLM({self.model!r})"


AutoModelForCausalLM = GPTNeoXForCausalLM
