"""Which tensor of a checkpoint becomes which tensor of a file; what is missing, extra or misshapen."""

from __future__ import annotations

from dataclasses import dataclass

from pythia_cpu import _core
from pythia_cpu._checkpoint import Checkpoint
from pythia_cpu._config import NeoxConfig
from pythia_cpu._errors import CheckpointError
from pythia_cpu._tensor_file import WEIGHT_DTYPES
from pythia_cpu._tensor_names import EMBEDDING, HEAD, canonical_names

VECTOR, ROWS, PANELS = _core.LAYOUTS

_MIN_Q4_HEAD_HIDDEN_SIZE = 512
_MAX_LISTED = 8
_COMPARE_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class TensorPlan:
    """One tensor of the file: its name and layout there, and the tensor of the checkpoint it is made from."""

    name: str
    layout: str  # one of _core.LAYOUTS
    rows: int
    cols: int
    source_name: str
    dtype: str  # of the source
    derived: bool  # the head of tied embeddings, made from the embedding


def plan_tensors(checkpoint: Checkpoint, config: NeoxConfig) -> list[TensorPlan]:
    """Matches a checkpoint's tensors with those that the config calls for, in file order.

    Raises:
        CheckpointError: tensors are missing, unknown, of another shape or not floating point; the message lists them.
    """
    where = str(checkpoint.folder)
    sources = canonical_names(checkpoint, where)
    expected = _core.expected_tensors(config.to_core())
    wanted = {name for name, *_ in expected}
    tied = config.tie_word_embeddings

    missing = [name for name in wanted if name not in sources and not (tied and name == HEAD)]
    extra = [sources[name] for name in sources if name not in wanted]
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors are missing: {_listing(sorted(missing))}")
    if extra:
        problems.append(
            f"{len(extra)} tensors are not part of a GPT-NeoX model with this config: {_listing(sorted(extra))}"
        )
    plans, misshapen = [], []
    for name, layout, rows, cols in expected:
        derived = tied and name == HEAD
        source_name = sources.get(EMBEDDING if derived else name)
        if source_name is None:
            continue
        info = checkpoint.info(source_name)
        shape = (cols,) if layout == VECTOR else (rows, cols)
        if info.shape != shape:
            misshapen.append(f"{source_name} is {list(info.shape)}, expected {list(shape)}")
        if info.dtype not in WEIGHT_DTYPES:
            misshapen.append(f"{source_name} is {info.dtype}, expected one of {', '.join(WEIGHT_DTYPES)}")
        plans.append(TensorPlan(name, layout, rows, cols, source_name, info.dtype, derived))
    if misshapen:
        problems.append(f"{len(misshapen)} tensors do not fit: {_listing(misshapen)}")
    if problems:
        raise CheckpointError(f"{where}: {'; '.join(problems)}; {_advice(sorted(missing), sorted(extra))}")
    if tied and HEAD in sources:
        _require_equal(checkpoint, sources[EMBEDDING], sources[HEAD])
    return plans


def _advice(missing: list[str], extra: list[str]) -> str:
    """What to do about tensors that are missing, and others that are there."""
    if missing and (prefix := {name.removesuffix(missing[0]) for name in extra if name.endswith("." + missing[0])}):
        return f"the names begin with '{prefix.pop()}', which a wrapper of the model adds: save them without it"
    if extra and not missing:
        return "if the model is GPT-NeoX with something added, save it without that; else download config.json again"
    return "compare config.json with the weights, and download both again"


def stored_format(plan: TensorPlan, hidden_size: int, weights: str, embedding_format: str) -> str:
    """The format that a tensor is stored in, where the file's format is ``weights``.

    Vectors are f32, the embedding is in ``embedding_format``, matmul weights are in ``weights``; except that the output
    head of a model with ``hidden_size`` below 512 is q8 in a q4 file. A small model is mostly vocabulary, and four bits
    in the head are much of what q4 loses there: mini-pythia's mean KL divergence from its fp16 weights is 0.0142 with a
    q4 head, 0.0084 with a q8 one.
    """
    if plan.layout == VECTOR:
        return "f32"
    if plan.layout == ROWS:
        return embedding_format
    if plan.name == HEAD and weights == "q4" and hidden_size < _MIN_Q4_HEAD_HIDDEN_SIZE:
        return "q8"
    return weights


def _listing(items: list[str]) -> str:
    more = f" and {len(items) - _MAX_LISTED} more" if len(items) > _MAX_LISTED else ""
    return ", ".join(items[:_MAX_LISTED]) + more


def _require_equal(checkpoint: Checkpoint, embedding: str, head: str) -> None:
    """A head that is stored although it is tied must be the embedding, or one of the two would be ignored."""
    infos = [checkpoint.info(name) for name in (embedding, head)]
    same = infos[0].shape == infos[1].shape and infos[1].dtype in WEIGHT_DTYPES
    for begin in range(0, infos[0].num_elements, _COMPARE_ELEMENTS):
        end = min(begin + _COMPARE_ELEMENTS, infos[0].num_elements)
        pieces = [checkpoint.read(name, begin, end) for name in (embedding, head)]
        if same and infos[0].dtype != infos[1].dtype:  # one of them is edited
            pieces = [
                _core.convert_elements(piece, WEIGHT_DTYPES[info.dtype], "f32").tobytes()
                for piece, info in zip(pieces, infos, strict=True)
            ]
        same = same and pieces[0] == pieces[1]
    if not same:
        advice = "edit both alike, or " if checkpoint.source.edited else ""
        raise CheckpointError(
            f"{checkpoint.path(head)}: tensor '{head}' differs from '{embedding}', but config.json says they are tied; "
            f"{advice}set tie_word_embeddings to false if the head is its own"
        )
