"""What a model's results depend on, as a short key."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from pythia_cpu import _core
from pythia_cpu._provenance import provenance


def model_key(file: _core.PcpuFile) -> str:
    """32 hexadecimal digits that name a model's numbers: equal keys give equal bits.

    They are a hash of the checkpoint's tensors (their sha256), its config and tokenizer, the weights' format, the
    stored fingerprint of the logits, and the version of this package. Where the checkpoint came from is no part of it.
    A file that stores neither fingerprint nor hashes is hashed whole.
    """
    facts = provenance(file)
    tensors = facts["tensors"]
    assert isinstance(tensors, dict)
    identity: dict[str, object] = {
        "engine": version("pythia-cpu"),
        "config": file.config,
        "weights": file.weights,
        "formats": {tensor["name"]: tensor["format"] for tensor in file.tensors},
        "fingerprint": file.fingerprint,
        "tensors": tensors,
        "tokenizer": hashlib.sha256(file.tokenizer).hexdigest(),
    }
    if file.fingerprint == 0 and not any(sha256.strip("0") for sha256 in tensors.values()):
        digest = hashlib.sha256()
        with Path(file.path).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        identity["file"] = digest.hexdigest()
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
