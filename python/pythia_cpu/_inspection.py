"""A forward pass with its activations, read and changed on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from pythia_cpu import _core
from pythia_cpu._arguments import SEQUENCES, TokenIds, boolean, float_array, is_batch, sequence_ids
from pythia_cpu._edits import LOGITS, Activation, Editor, Edits, EditsOfEach, matching, refuse_list_of_edits
from pythia_cpu._passes import PASS_TOKENS, runs_of_a_pass
from pythia_cpu._results import Result

_RESIDUALS = ("hook_resid_pre", "hook_resid_post")


@dataclass(frozen=True, eq=False, repr=False)
class Run(Result):
    """A forward pass over one sequence.

    Attributes:
        logits: float32 ``[num_tokens, vocab_size]``; None if they were not asked for.
        activations: float32 arrays by name, in the order of the pass.
    """

    logits: npt.NDArray[np.float32] | Any  # not "| None", which a type checker would ask about at every use
    activations: dict[str, Activation] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Shapes, not numbers."""
        logits = None if self.logits is None else list(self.logits.shape)
        shapes = ", ".join(f"{name!r}: {list(array.shape)}" for name, array in self.activations.items())
        return f"Run(logits={logits}, activations={{{shapes}}})"


class InspectsActivations(ABC):
    """The methods of ``Model`` that look inside it."""

    @abstractmethod
    def _core_model(self) -> _core.Model:
        """The core's model."""

    @property
    def activation_names(self) -> list[str]:
        """The names that ``run`` knows, in the order of the pass."""
        return self._core_model().hook_names

    @overload
    def run(
        self,
        tokens: TokenIds,
        *,
        capture: str | Iterable[str] = (),
        edit: Edits | None = None,
        logits: bool = True,
    ) -> Run: ...
    @overload
    def run(
        self,
        tokens: Sequence[TokenIds],
        *,
        capture: str | Iterable[str] = (),
        edit: Edits | EditsOfEach | None = None,
        logits: bool = True,
    ) -> list[Run]: ...
    def run(
        self,
        tokens: TokenIds | Sequence[TokenIds],
        *,
        capture: str | Iterable[str] = (),
        edit: Edits | EditsOfEach | None = None,
        logits: bool = True,
    ) -> Run | list[Run]:
        """Runs a sequence, keeps the activations asked for, and changes them on their way. ``Session.run`` does so for
        the tokens that a session goes on with, ``generate`` with its ``edit`` for texts as they are written.

        Names, shapes and meaning are TransformerLens's (``HookedTransformer.from_pretrained_no_processing``), without
        the batch dimension; ``hook_normalized`` is what a LayerNorm gives, after weight and bias, as in its versions
        before 3 (since version 3 it is before them; version 4's TransformerBridge calls it ``hook_out``):

        - ``[num_tokens, hidden_size]``: ``hook_embed``; of layer i, ``blocks.{i}.hook_resid_pre``, ``hook_attn_out``,
          ``hook_resid_mid`` (only if attention and MLP are not parallel), ``hook_mlp_out``, ``hook_resid_post``, and
          ``ln1.hook_normalized``, ``ln2.hook_normalized``; ``ln_final.hook_normalized``
        - ``[num_tokens, 1]``: ``ln1.hook_scale``, ``ln2.hook_scale``, ``ln_final.hook_scale``: what each divides by
        - ``[num_tokens, num_heads, head_dim]``: ``attn.hook_q``, ``hook_k``, ``hook_v``, ``hook_z``; ``hook_rot_q`` and
          ``hook_rot_k``, after the rotary embedding
        - ``[num_heads, num_tokens, num_tokens]``, queries by keys: ``attn.hook_attn_scores``, scaled, ``-inf`` where
          masked (a row that an edit masks as a whole becomes zeros); ``attn.hook_pattern``
        - ``[num_tokens, intermediate_size]``: ``mlp.hook_pre``, ``mlp.hook_post``

        The logits are those of ``logits``, bit for bit, unless an edit changes something, and an edit at one position
        changes nothing before it. All results are the same for any number of threads and on every instruction set.
        Models with q8 and q4 weights also round activations to int8, and a change that moves some of them to the next
        code shows as much: for small effects, patching and attribution take f32, f16 or bf16. Only activations asked
        for take memory; a scores or pattern array takes ``4 * num_heads * num_tokens ** 2`` bytes.

        Args:
            tokens: token ids ``[num_tokens]``, or a list of such sequences (or an integer array ``[batch,
                num_tokens]``), which gives a list of results. Short sequences run together, which is faster than one
                by one: functions of ``edit`` then get an activation of each of these in turn before the next activation
                of any.
            capture: names to keep, or patterns of them such as ``"blocks.*.hook_resid_post"``.
            edit: functions by name (or pattern), each called with its activation, or one function called with the name
                and array of every activation, scores and patterns too. A function returns the array that takes the
                activation's place, or None; it may also change the array it is given. In place of a function there may
                be that array itself; where it is of a ``hook_resid_pre`` or ``hook_resid_post`` and nothing before is
                captured or edited, ``run`` begins there. For a list of sequences ``edit`` may be a list too, with the
                edits of each, or None. The rest of the pass, and ``Run.activations``, have the edited
                one. Functions may call the model. The name ``"logits"`` stands for the logits, ``[num_tokens,
                vocab_size]``, where ``-inf`` rules a token out.
            logits: False leaves out the logits, and the layers after the last one that is captured or edited.

        Raises:
            ValueError: a name or pattern that no activation has, an edit of another shape or with values that are not
                finite (scores and logits may be ``-inf``), or tokens that ``logits`` refuses.
        """
        core = self._core_model()
        config = core.file.config
        sizes = config["vocab_size"], config["max_position_embeddings"]
        if not is_batch("tokens", tokens, what=SEQUENCES):
            refuse_list_of_edits(edit)
            return inspected(core, [sequence_ids("tokens", tokens, *sizes)], capture, edit, logits, None)[0]
        patterns = list(capture) if isinstance(capture, Iterator) else capture  # each pass reads them
        several = [sequence_ids(f"tokens[{i}]", sequence, *sizes) for i, sequence in enumerate(tokens)]
        Editor(edit, core.hook_names, num_texts=len(several))  # refuses what fits no pass
        runs: list[Run] = []
        for begin, end in runs_of_a_pass([len(ids) for ids in several]):
            edits = edit[begin:end] if isinstance(edit, list | tuple) else edit
            runs += inspected(core, several[begin:end], patterns, edits, logits, None)
        return runs

    def unembed(self, residuals: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The logits that residual streams give through the final LayerNorm and the head: the logit lens
        (nostalgebraist 2020), if they are of an earlier layer.

        Of the last layer's ``hook_resid_post`` it gives the logits of that pass, bit for bit.

        Args:
            residuals: numbers ``[..., hidden_size]``, for example an activation of ``run``, or several, stacked.

        Returns:
            float32 ``[..., vocab_size]``.

        Raises:
            ValueError: another shape, or values that are not finite.
        """
        core = self._core_model()
        hidden_size, vocab_size = core.file.config["hidden_size"], core.file.config["vocab_size"]
        array = float_array("residuals", residuals)
        if array.ndim == 0 or array.shape[-1] != hidden_size:
            raise ValueError(
                f"residuals have shape {list(array.shape)}, expected [..., {hidden_size}], the hidden size"
            )
        if not np.isfinite(array).all():
            raise ValueError("residuals have values that are not finite")
        rows = array.reshape(-1, hidden_size)
        logits = np.empty((len(rows), vocab_size), np.float32)
        step = min(PASS_TOKENS, core.file.config["max_position_embeddings"])
        for begin in range(0, len(rows), step):
            logits[begin : begin + step] = core.unembed(rows[begin : begin + step])
        return logits.reshape(*array.shape[:-1], vocab_size)


def inspected(
    core: _core.Model,
    sequences: list[npt.NDArray[np.int32]],
    capture: str | Iterable[str],
    edit: Edits | EditsOfEach | None,
    logits: object,
    cache: _core.KvCache | None,
) -> list[Run]:
    """``InspectsActivations.run`` of checked ids, all in one pass; with a cache one sequence, after what is in it."""
    names = core.hook_names
    editor = Editor(edit, names, num_texts=len(sequences))
    if LOGITS in editor.names and not logits:
        raise ValueError("edit has a function for the logits, and logits is False: leave out one of them")
    if not isinstance(capture, Iterable):
        kind = type(capture).__name__
        raise ValueError(f"capture is of type {kind}, expected names or patterns, as 'blocks.*.hook_resid_post'")
    patterns = [capture] if isinstance(capture, str) else capture
    wanted = {name for pattern in patterns for name in matching(pattern, names)}
    activations: list[dict[str, Activation]] = [{} for _ in sequences]

    def see(sequence: int, name: str, array: Activation) -> Activation | None:
        edited = editor.apply(sequence, name, array)
        if name in wanted:
            activations[sequence][name] = array if edited is None else edited
        return edited

    shown = wanted | editor.names
    first = next((name for name in names if name in shown), "")
    replaced = first if first.endswith(_RESIDUALS) and editor.replaces(first) else ""
    found = core.inspect(sequences, shown, see, boolean("logits", logits), cache, replaced_residual=replaced)
    if not logits:
        return [Run(None, of_one) for of_one in activations]
    rows = np.split(found, np.cumsum([len(ids) for ids in sequences])[:-1])
    return [Run(of_logits, of_one) for of_logits, of_one in zip(rows, activations, strict=True)]
