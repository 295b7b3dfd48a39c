"""Opens a checkpoint folder in any of Hugging Face's layouts as a lazy mapping of tensors."""

from __future__ import annotations

import copy
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pythia_cpu._arguments import strings
from pythia_cpu._edits import Edits
from pythia_cpu._errors import CheckpointError
from pythia_cpu._layouts import LAYOUT_FILES, read_index
from pythia_cpu._resolve import resolve_source
from pythia_cpu._results import ByIdentity
from pythia_cpu._safetensors import SafetensorsFile
from pythia_cpu._snapshot import refuse_damaged
from pythia_cpu._source import Source, local_revisions
from pythia_cpu._tensor_file import TensorFile, TensorInfo, to_numpy
from pythia_cpu._tensor_names import canonical_name, no_tensor
from pythia_cpu._torch_bin import TorchFile
from pythia_cpu._weight_edits import WeightEdits

_GIT_LFS_POINTER = b"version https://git-lfs"  # all that a clone without git-lfs has of a large file


class Checkpoint(ByIdentity, Mapping[str, npt.NDArray[Any]]):
    """A checkpoint's tensors by their stored names; an array is read from the file when it is asked for.

    bfloat16 tensors come as float32 arrays of the same values. Use it in a ``with`` statement, or ``close()`` it.
    """

    def __init__(self, source: Source) -> None:
        """Opens the files of weights, and reads no tensor.

        Raises:
            CheckpointError: there are none, or they are damaged, incomplete, or not what their index says.
            OSError: a file cannot be read.
        """
        self.source = source
        self.folder: Path = source.folder
        self._is_whole = False  # as far as is known
        self._files: dict[Path, TensorFile] = {}
        self._where: dict[str, TensorFile] = {}
        try:
            self._open_files()
        except BaseException:
            self.close()
            raise

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """A tensor, read from its file, as an array of its own. Raises KeyError."""
        file = self._file(name)
        info = file.tensors[name]
        return to_numpy(info, file.read(name, 0, info.num_elements))

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor called ``name``."""
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        """The names of the tensors."""
        return iter(self._where)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._where)

    def info(self, name: str) -> TensorInfo:
        """A tensor's dtype and shape, without reading it. Raises KeyError."""
        return self._file(name).tensors[name]

    def path(self, name: str) -> Path:
        """The file that holds a tensor. Raises KeyError."""
        return self._file(name).path

    def read(self, name: str, begin: int, end: int) -> bytes:
        """Elements [begin, end) of a tensor in row-major order, as stored, little-endian. Safe from several threads."""
        return self._file(name).read(name, begin, end)

    def config_text(self) -> str:
        """The text of ``config.json``. Raises CheckpointError if there is none."""
        return self._file_bytes("config.json").decode(errors="replace")

    def tokenizer_json(self) -> bytes:
        """The bytes of ``tokenizer.json``. Raises CheckpointError if there is none."""
        return self._file_bytes("tokenizer.json", self.source.tokenizer_path)

    def edited(self, edit: Edits, *, note: str | None = None) -> Checkpoint:
        """The same checkpoint with other values in its weights, for ``load`` and ``convert``: between two checkpoints,
        with a head's output at zero, or as fine-tuned elsewhere.

        Args:
            edit: weights by their names, or patterns of them ("*.attention.dense.weight"): a function of the values,
                float32 in the shape of the weight, which returns what stands in their place, or changes them and
                returns None; or an array, of which a copy is taken now. Or one function of a name and values, for all
                weights. Functions are called when a weight is read, more than once in a conversion, perhaps from
                several threads, and should return the same each time. Tensors that are computed and not read (masks,
                rotary tables) may be among the names, and so may a tied head that equals the embedding.
            note: what was done, for ``Model.provenance`` and the file; None: the names of what was edited.

        Returns:
            A lazy mapping as this one is. It reads from this one's files: close this one after it. Edited weights are
            float32, whole ones in memory while they are read.

        Raises:
            ValueError: something else than edits, a name that no weight has, or an array of another shape. When it is
                read: such a shape of what a function returned, or values that are not finite.
        """
        if note is not None and not (isinstance(note, str) and strings("note", note)[0]):
            raise ValueError(f"note is {note!r}, expected a text that says what was done, or None")
        shapes = {name: self.info(name).shape for name in self}
        return _EditedCheckpoint(self, WeightEdits(edit, shapes, str(self.folder)), note)

    def with_tokenizer(self, tokenizer: str | os.PathLike[str] | None) -> Checkpoint:
        """Itself, or one over the same files with another ``tokenizer.json``: its path, or that of a folder with it."""
        if tokenizer is None:
            return self
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, source=self.source.with_tokenizer(tokenizer))
        return other

    def refuse_damaged(self) -> None:
        """Hashes the files of one from the hub, once. Raises CheckpointError if one is not what the hub said."""
        if self.source.commit is not None and not self._is_whole:
            refuse_damaged(self.folder)
            self._is_whole = True

    def forget(self) -> None:
        """Gives back memory of weights that were read; they can be read again."""

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()

    def __enter__(self) -> Checkpoint:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def __copy__(self) -> Checkpoint:
        """One with files of its own, which closing this one leaves open."""
        return Checkpoint(self.source)

    def __repr__(self) -> str:
        """Its name, and how many tensors it has."""
        return f"<Checkpoint {self.source.name!r}: {len(self)} tensors>"

    def _file(self, name: str) -> TensorFile:
        if name not in self._where:
            raise no_tensor(name, self._where, str(self.folder))
        return self._where[name]

    def _file_bytes(self, name: str, path: Path | None = None) -> bytes:
        path = path or self.folder / name
        try:
            return path.read_bytes()
        except FileNotFoundError:
            advice = "" if name == "config.json" else "; give another checkpoint's with tokenizer="
            raise CheckpointError(
                f"{path}: is missing; a checkpoint folder holds config.json, tokenizer.json and weights{advice}"
            ) from None

    def _open_files(self) -> None:
        wanted = self.source.weights_file
        has_adapter = (self.folder / "adapter_config.json").is_file()
        for name in LAYOUT_FILES if wanted is None else (wanted,):
            path = self.folder / name
            if not path.is_file():
                continue
            reader = SafetensorsFile if "safetensors" in name else TorchFile
            if name.endswith(".index.json"):
                self._open_shards(path, reader)
            else:
                file = self._open(path, reader)
                self._where = dict.fromkeys(file.tensors, file)
            if has_adapter:
                raise CheckpointError(
                    f"{self.folder}: holds whole weights and adapter_config.json, by which transformers changes them: "
                    "merge the adapter with merge_and_unload() and save that, or remove adapter_config.json"
                )
            return
        if has_adapter:
            raise CheckpointError(
                f"{self.folder}: holds an adapter (PEFT, LoRA) and no whole model: merge it into its base with "
                "merge_and_unload() and save that"
            )
        found = ", ".join(sorted(entry.name for entry in os.scandir(self.folder))[:20]) or "nothing"
        steps = local_revisions(self.folder)
        advice = f"; for one of its checkpoints pass revision, such as revision={steps[-1]!r}" if steps else ""
        if self.source.name.startswith("pythia-"):  # a folder goes before a hub id
            advice += f"; for the model on the hub pass 'EleutherAI/{self.source.name}'"
        raise CheckpointError(
            f"{self.folder}: holds no weights: found {found}; expected {', '.join(LAYOUT_FILES)}{advice}"
        )

    def _open(self, path: Path, reader: type[SafetensorsFile] | type[TorchFile]) -> TensorFile:
        if path not in self._files:
            with path.open("rb") as file:
                if file.read(len(_GIT_LFS_POINTER)) == _GIT_LFS_POINTER:
                    problem = "is git-lfs's pointer to the weights, not the weights"
                    raise CheckpointError(f"{path}: {problem}; run 'git lfs pull' in its folder")
            self._files[path] = reader(path)
        return self._files[path]

    def _open_shards(self, index_path: Path, reader: type[SafetensorsFile] | type[TorchFile]) -> None:
        """Opens the shards an index names; index and shards must tell of the same tensors."""
        shard_names = read_index(index_path)
        for name, shard in shard_names.items():
            path = self.folder / shard
            if not path.is_file():
                raise CheckpointError(
                    f"{index_path}: tensor '{name}' is in '{shard}', which is not in {self.folder}; download it"
                )
            file = self._open(path, reader)
            if name not in file.tensors:
                raise CheckpointError(
                    f"{path}: has no tensor '{name}', which {index_path.name} says it has; download both again"
                )
            self._where[name] = file
        for path, file in self._files.items():
            for name in file.tensors:
                said = shard_names.get(name)
                if said == path.name or (said is None and canonical_name(name) is None):  # buffers may be left out
                    continue
                place = f"{index_path.name} says is in {said or 'no file'}"
                raise CheckpointError(f"{path}: has tensor '{name}', which {place}; download both again")


class _EditedCheckpoint(Checkpoint):
    """A checkpoint with other values in some weights; ``Checkpoint.edited`` makes these."""

    # Conversions read a weight in pieces, by several threads: the last one is kept, and so many bytes of those before.
    _MOST_KEPT_BYTES = 1 << 25

    def __init__(
        self, original: Checkpoint, edits: WeightEdits, note: str | None, *, owns_original: bool = False
    ) -> None:
        self._original, self._edits, self._note, self._owns_original = original, edits, note, owns_original
        before, done = original.source.edited, (note or edits.description) if edits.functions else None
        self.source = replace(original.source, edited="; ".join(filter(None, (before, done))) or None)
        self.folder, self._files, self._where = original.folder, original._files, original._where
        self._kept: dict[str, npt.NDArray[np.float32]] = {}
        self._locks: dict[str, threading.RLock] = {}
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        return self._values(name).copy() if name in self._edits.functions else self._original[name]

    def info(self, name: str) -> TensorInfo:
        found = self._original.info(name)
        return replace(found, dtype="float32") if name in self._edits.functions else found

    def read(self, name: str, begin: int, end: int) -> bytes:
        if name not in self._edits.functions:
            return self._original.read(name, begin, end)
        return self._values(name).reshape(-1)[begin:end].tobytes()

    def refuse_damaged(self) -> None:
        self._original.refuse_damaged()

    def forget(self) -> None:
        with self._lock:
            self._kept.clear()
            self._locks.clear()

    def close(self) -> None:
        """Nothing but for a copy: the files are the original's."""
        if self._owns_original:
            self._original.close()

    def with_tokenizer(self, tokenizer: str | os.PathLike[str] | None) -> Checkpoint:
        if tokenizer is None:
            return self
        return _EditedCheckpoint(self._original.with_tokenizer(tokenizer), self._edits, self._note)

    def __copy__(self) -> Checkpoint:
        return _EditedCheckpoint(copy.copy(self._original), self._edits, self._note, owns_original=True)

    def __reduce__(self) -> tuple[object, ...]:
        again = functools.partial(_EditedCheckpoint, owns_original=True)
        return again, (self._original, self._edits, self._note)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, edited: {self.source.edited}>"

    def _values(self, name: str) -> npt.NDArray[np.float32]:
        """A weight after its edits, kept for its other pieces. Users' functions run under that weight's lock alone."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.RLock())
        with lock:
            if (kept := self._kept.get(name)) is not None:
                return kept
            values = self._computed(name)
            with self._lock:
                self._kept[name] = values
                others = sum(array.nbytes for array in self._kept.values()) - values.nbytes
                for oldest in list(self._kept):
                    if others <= self._MOST_KEPT_BYTES or oldest == name:
                        break
                    others -= self._kept.pop(oldest).nbytes
            return values

    def _computed(self, name: str) -> npt.NDArray[np.float32]:
        original = self._original
        if isinstance(original, _EditedCheckpoint) and name in original._edits.functions:
            return self._edits.apply(name, original._computed(name))
        return self._edits.apply(name, original[name].astype(np.float32, copy=False))


def open_checkpoint(source: str | os.PathLike[str], revision: str | int | None = None) -> Checkpoint:
    """Opens the raw tensors of a checkpoint: safetensors or PyTorch ``.bin``, single or sharded. Runs no code from it.

    Args:
        source: a local folder in Hugging Face's layout, a hub id ("EleutherAI/pythia-14m") or its short form
            ("pythia-14m"). A hub checkpoint is downloaded to the hub client's cache.
        revision: branch, tag or commit on the hub; for a folder, which of its subfolders. A whole number is a
            step (3000 and "3000" are "step3000").

    Returns:
        A lazy mapping: stored name -> numpy array.

    Raises:
        CheckpointError: the checkpoint is damaged, incomplete, or of a layout that is not supported.
        ValueError: a bad ``source`` or ``revision``.
        OSError: a file cannot be read, or the hub cannot be reached.
    """
    return Checkpoint(resolve_source(source, revision))
