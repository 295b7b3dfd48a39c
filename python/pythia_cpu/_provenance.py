"""Where a converted file's weights came from, as its metadata says."""

from __future__ import annotations

from pythia_cpu import _core


def provenance(file: _core.PcpuFile) -> dict[str, object]:
    """Where a file's weights came from, as ``Model.provenance`` gives it.

    Keys: ``source``, ``revision``, ``commit`` (None where there is none), ``weights``, ``tensors`` (name -> sha256 of
    the source tensor's bytes, hexadecimal), ``converter_version``, ``tokenizer_sha256``, ``tokenizer_revision`` (the
    revision that tokenizer.json came from, where that is another one), ``edited`` (what was done to the weights before
    the conversion).
    """
    metadata = file.metadata
    return {
        "source": metadata.get("source"),
        "revision": metadata.get("revision"),
        "commit": metadata.get("commit"),
        "weights": file.weights,
        "tensors": {t["name"]: t["source_sha256"].hex() for t in file.tensors if not t["derived"]},
        "converter_version": metadata.get("converter_version"),
        "tokenizer_sha256": metadata.get("tokenizer_sha256"),
        "tokenizer_revision": metadata.get("tokenizer_revision"),
        "edited": metadata.get("edited"),
    }
