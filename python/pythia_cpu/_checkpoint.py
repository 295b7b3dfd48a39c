"""Opens a checkpoint folder in any of Hugging Face's layouts as a lazy mapping of tensors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy.typing as npt

from pythia_cpu._errors import CheckpointError
from pythia_cpu._layouts import LAYOUT_FILES, read_index
from pythia_cpu._resolve import resolve_source
from pythia_cpu._results import ByIdentity
from pythia_cpu._safetensors import SafetensorsFile
from pythia_cpu._source import Source, local_revisions
from pythia_cpu._tensor_file import TensorFile, TensorInfo, to_numpy
from pythia_cpu._tensor_names import canonical_name, no_tensor
from pythia_cpu._torch_bin import TorchFile

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
            return
        if (self.folder / "adapter_config.json").is_file():
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
