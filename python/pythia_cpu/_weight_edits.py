"""Edits of a checkpoint's weights: which weights their names mean, and what becomes of the values."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import float_array
from pythia_cpu._edits import Edit, Replacement, apply_edit, functions_by_name
from pythia_cpu._tensor_names import EMBEDDING, HEAD, canonical_name, canonical_names, no_tensor

Weight = npt.NDArray[np.float32]


class WeightEdits:
    """The edits that a user gave, as they were then.

    Attributes:
        functions: stored name -> the functions to call for that weight, in order.
        description: the names, or "all weights"; None if there is nothing to do.
    """

    def __init__(self, edit: object, shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
        """Reads ``Edits``.

        Args:
            edit: as users give them, for ``Checkpoint.edited``.
            shapes: of the checkpoint's tensors, by stored names.
            where: what errors call the checkpoint.

        Raises:
            ValueError: something else than edits, names that no weight has, or an array of another shape.
        """
        self._weights = canonical_names(shapes, where)  # engine's name -> stored name
        self._where = where
        if isinstance(edit, Mapping):
            edit = self._without_tied_head(edit)
        names = list(self._weights.values())
        self.functions: dict[str, list[Edit]] = functions_by_name(edit, names, "edit", self._find)
        for name, functions in self.functions.items():
            for function in functions:
                if isinstance(function, Replacement) and function.array.shape != shapes[name]:
                    found, expected = list(function.array.shape), list(shapes[name])
                    raise ValueError(f"edit[{name!r}] is an array of shape {found}, expected {expected}")
        is_all = self.functions.keys() == set(names)
        self.description = "all weights" if is_all else ", ".join(self.functions) or None

    def apply(self, name: str, values: Weight) -> Weight:
        """What becomes of a weight's values, which may be changed in place.

        Raises:
            ValueError: a function returned another shape, or values that are not finite.
        """
        for function in self.functions[name]:
            values = apply_edit(name, function, values)
        return values

    def _find(self, pattern: object) -> list[str]:
        """The stored names of the weights that a name or a pattern means; none for buffers."""
        if not isinstance(pattern, str):
            raise ValueError(f"edit has {pattern!r} of type {type(pattern).__name__}, expected names of weights")
        engine_name = canonical_name(pattern)
        if engine_name is None:
            return []
        if engine_name in self._weights:
            return [self._weights[engine_name]]
        found = [
            stored
            for name, stored in self._weights.items()
            if any(fnmatch.fnmatchcase(known, pattern) for known in (stored, name, name.removeprefix("gpt_neox.")))
        ]
        if not found:
            raise ValueError(f"edit: {no_tensor(pattern, self._weights.values(), self._where).args[0]}")
        return found

    def _without_tied_head(self, edit: Mapping[object, object]) -> dict[object, object]:
        """State dicts hold a tied head too, equal to the embedding; the checkpoint does not."""
        by_name = {canonical_name(name): name for name in edit if isinstance(name, str)}
        head, embedding = by_name.get(HEAD), by_name.get(EMBEDDING)
        if head is None or HEAD in self._weights:
            return dict(edit)
        given = edit[head], edit.get(embedding)
        if not any(value is None or callable(value) for value in given):
            both = [float_array(f"edit of {HEAD} or {EMBEDDING}", value) for value in given]
            if np.array_equal(both[0], both[1]):
                return {name: value for name, value in edit.items() if name != head}
        raise ValueError(
            f"edit: {self._where} has no head of its own, as with tied embeddings: leave {head!r} out, and edit "
            f"{self._weights.get(EMBEDDING, EMBEDDING)!r}, which is the head too"
        )
