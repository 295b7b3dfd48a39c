"""Functions that change activations or weights, by their names."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import float_array

Activation: TypeAlias = npt.NDArray[np.float32]  # or a weight
Edit: TypeAlias = Callable[[Activation], npt.ArrayLike | None]
EditAny: TypeAlias = Callable[[str, Activation], npt.ArrayLike | None]
Edits: TypeAlias = Mapping[str, Edit | npt.ArrayLike] | EditAny
EditsOfEach: TypeAlias = Sequence[Edits | None]

_SCORES = "hook_attn_scores"
LOGITS = "logits"
"""A name for edits only: results have them anyway."""

# Regular expressions of its names, and those here.
_NAMES_OF_VERSION_4 = (
    (r"^embed\.hook_out$", "hook_embed"),
    (r"^unembed\.hook_in$", "ln_final.hook_normalized"),
    (r"(ln1|ln2|ln_final)\.hook_out$", r"\1.hook_normalized"),
    (r"^(blocks\.[^.]+)\.(ln1|ln2)\.hook_in$", r"\1.hook_resid_pre"),
    (r"attn\.([qkv])\.hook_out$", r"attn.hook_\1"),
    (r"attn\.([qkv]\.)?hook_in$", "ln1.hook_normalized"),
    (r"attn\.o\.hook_in$", "attn.hook_z"),
    (r"attn\.o\.hook_out$", "hook_attn_out"),
    (r"mlp\.(in\.)?hook_in$", "ln2.hook_normalized"),
    (r"mlp\.in\.hook_out$", "mlp.hook_pre"),
    (r"mlp\.out\.hook_in$", "mlp.hook_post"),
    (r"mlp\.out\.hook_out$", "hook_mlp_out"),
    (r"(attn|mlp)\.hook_out$", r"hook_\1_out"),
    (r"^(blocks\.[^.]+)\.hook_in$", r"\1.hook_resid_pre"),
    (r"^(blocks\.[^.]+)\.hook_out$", r"\1.hook_resid_post"),
)
# What serves in place of its optional hooks, by the end of their names.
_IN_PLACE_OF = {
    "attn.hook_result": "attn.hook_z, which times the head's part of the output weights is it",
    "hook_attn_in": "hook_resid_pre to look, ln1.hook_normalized to change what attention reads",
    "hook_mlp_in": "hook_resid_pre to look, ln2.hook_normalized to change what the MLP reads",
    "hook_q_input": "attn.hook_q, which is made of it",
    "hook_k_input": "attn.hook_k, which is made of it",
    "hook_v_input": "attn.hook_v, which is made of it",
    "hook_pos_embed": "attn.hook_rot_q and attn.hook_rot_k: positions are rotations of queries and keys",
}


class Editor:
    """The edits of a call, of all its texts or of each its own.

    Attributes:
        names: of the activations that some text has an edit of.
    """

    def __init__(self, edit: object, activation_names: list[str], *, num_texts: int | None = None) -> None:
        """Edits as users give them: ``Edits``, or a list with those of each text, where there may be several.

        Args:
            edit: the edits; None: none.
            activation_names: those of the model.
            num_texts: how many texts there are; None if that is not known before.

        Raises:
            ValueError: something else than edits, names that no activation has, or a list of another length.
        """
        self._each: list[dict[str, list[Edit]]] | None = None
        self._all: dict[str, list[Edit]] = {}
        if isinstance(edit, list | tuple):
            if num_texts is not None and len(edit) != num_texts:
                raise ValueError(f"edit is a list of {len(edit)}, expected one for each of {num_texts} texts")
            self._each = [_of_activations(one, activation_names, f"edit[{i}]") for i, one in enumerate(edit)]
        else:
            self._all = _of_activations(edit, activation_names, "edit")
        self.names = {name for edits in [self._all, *(self._each or [])] for name in edits}

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.names)

    def apply(self, text: int, name: str, array: Activation) -> Activation | None:
        """An activation of a text after its edits; None if it has none."""
        functions = self._of(text).get(name)
        for function in functions or ():
            array = apply_edit(name, function, array)
        return array if functions else None

    def replaces(self, name: str) -> bool:
        """Whether all texts have an array in this activation's place."""
        return all(isinstance(of_one.get(name, [None])[0], Replacement) for of_one in self._each or [self._all])

    def _of(self, text: int) -> dict[str, list[Edit]]:
        if self._each is None:
            return self._all
        if text >= len(self._each):
            raise ValueError(f"edit is a list of {len(self._each)}, and there are more prompts: pass one for each")
        return self._each[text]


def refuse_list_of_edits(edit: object) -> None:
    """Where there is one text."""
    if isinstance(edit, list | tuple):
        raise ValueError(
            "edit is a list, which goes with a list of texts in run, generate and generate_each: pass functions by "
            "name, {name: function}"
        )


def matching(pattern: object, names: list[str]) -> list[str]:
    """The names that a pattern stands for, at least one."""
    if not isinstance(pattern, str):
        raise ValueError(f"found {pattern!r} of type {type(pattern).__name__}, expected the name of an activation")
    found = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    if not found:
        if pattern == LOGITS:
            raise ValueError(
                "the logits are no activation: results have them as their .logits, and edits may change them"
            )
        for end, instead in _IN_PLACE_OF.items():
            if pattern.endswith(end):
                raise ValueError(f"the model has no activation {pattern!r}; in its place: {instead}")
        near = [f"blocks.*.{pattern}"] if fnmatch.filter(names, f"blocks.*.{pattern}") else _near(pattern, names)
        raise ValueError(f"the model has no activation {pattern!r}; near it: {', '.join(near)} (all: activation_names)")
    return found


def _near(pattern: str, names: list[str]) -> list[str]:
    """The name here of what TransformerLens 4 calls so; else those that are most alike."""
    for theirs, ours in _NAMES_OF_VERSION_4:
        name = re.sub(theirs, ours, pattern)
        if name != pattern and fnmatch.filter(names, name):
            return [name]
    return difflib.get_close_matches(pattern, names, n=3, cutoff=0.0)


def _of_activations(edit: object, names: list[str], called: str) -> dict[str, list[Edit]]:
    if edit is None:
        return {}
    return functions_by_name(edit, names, called, lambda name: [LOGITS] if name == LOGITS else matching(name, names))


def functions_by_name(
    edit: object, names: Iterable[str], called: str, find: Callable[[object], list[str]]
) -> dict[str, list[Edit]]:
    """The functions to call for each name, in order.

    Args:
        edit: ``Edits``, as users give them.
        names: all names; one function is called for each.
        called: what errors call it.
        find: the names that a key of a mapping stands for.

    Raises:
        ValueError: something else than edits; and what ``find`` raises.
    """
    if isinstance(edit, Mapping):
        edits: dict[str, list[Edit]] = {}
        for pattern, function in edit.items():
            if not callable(function):
                function = Replacement(f"{called}[{pattern!r}]", function)
            for name in find(pattern):
                edits.setdefault(name, []).append(function)
        return edits
    if not callable(edit):
        kind = type(edit).__name__
        raise ValueError(f"{called} is of type {kind}, expected functions by name, {{name: function}}, or one function")
    return {name: [functools.partial(edit, name)] for name in names}


class Replacement:
    """An array as an edit.

    Attributes:
        array: a copy of it, float32.
    """

    def __init__(self, called: str, array: object) -> None:
        """Raises ValueError if it is none; ``called`` is what errors call it."""
        is_list = isinstance(array, list | tuple)
        if is_list and any(map(callable, array)):  # type: ignore[call-overload]
            raise ValueError(f"{called} is a list of functions, expected one: call them in it, one after the other")
        if not hasattr(array, "__array__") and not is_list:
            raise ValueError(f"{called} is of type {type(array).__name__}, expected a function or an array")
        self.array = float_array(called, array)

    def __call__(self, array: Activation) -> Activation:
        """The array."""
        return self.array


def _is_of_the_call(error: Exception) -> bool:
    """Whether a function refused its arguments, and did not run."""
    return error.__traceback__ is not None and error.__traceback__.tb_next is None


def apply_edit(name: str, function: Edit, array: Activation) -> Activation:
    """What a function makes of an activation or weight, checked: where its own numbers are not finite, it may look."""

    def is_sound(values: Activation) -> bool:
        may_be_minus_inf = name.endswith((_SCORES, LOGITS))
        return bool((values < np.inf if may_be_minus_inf else np.isfinite(values)).all())  # False for NaN

    may_be_unsound = not is_sound(array)
    try:
        returned = function(array)
    except Exception as error:
        if sys.version_info >= (3, 11):
            error.add_note(f"in the edit of {name}")
            if isinstance(error, TypeError) and _is_of_the_call(error):
                is_one_for_all = isinstance(function, functools.partial)
                error.add_note(
                    "one function for all gets a name and the array"
                    if is_one_for_all
                    else "a function in a dict gets the array alone; its name is the key"
                )
        raise
    if returned is None or returned is array:
        result = array
    else:
        may_be_unsound = False
        result = float_array(f"what the edit of {name} returned", returned, copy=not isinstance(function, Replacement))
        if result.shape != array.shape:
            raise ValueError(f"the edit of {name} returned shape {list(result.shape)}, expected {list(array.shape)}")
    if not (may_be_unsound or is_sound(result)):
        raise ValueError(f"the edit of {name} gave values that are not finite")
    return result
