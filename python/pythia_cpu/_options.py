"""Options of other libraries' calls: those that change nothing here pass, others are refused."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

_LEAVE_OUT = "leave it out"
# What to do instead, where there is something; ``model.model`` is the pythia_cpu.Model.
_INSTEAD = {
    "load_in_8bit": "use weights='q8'",
    "load_in_4bit": "use weights='q4'",
    "quantization_config": "use weights='q8' or 'q4'",
    "subfolder": "give it as revision",
    "inputs_embeds": "use model.model.run(edit={'hook_embed': ...})",
}
_SHOWN_CHARACTERS = 60
_SECRETS = "token", "use_auth_token"


def refuse_unknown(
    call: str,
    arguments: Mapping[str, object],
    no_effect: Mapping[str, tuple[object, ...]],
    known: Collection[str] = (),
) -> None:
    """Passes arguments that change nothing here; ``no_effect`` has the values each may have, none for any value.
    ``known`` are names that the call has, or that the call it stands for has.

    Raises:
        ValueError: an argument that would be ignored.
    """
    for name, value in arguments.items():
        allowed = no_effect.get(name)
        shown = "..." if name in _SECRETS else repr(value)
        if len(shown) > _SHOWN_CHARACTERS:
            shown = f"{shown[:_SHOWN_CHARACTERS]}..."
        if allowed is None and value is not None:
            near = [] if name in known else difflib.get_close_matches(name, known, n=1)
            advice = f"perhaps {near[0]} is meant" if near else _INSTEAD.get(name, _LEAVE_OUT)
            raise ValueError(f"{call}: {name}={shown} is not supported by pythia_cpu: {advice}")
        if allowed and value is not None and not any(value is a or value == a or str(value) == a for a in allowed):
            values = ", ".join(map(repr, allowed))
            advice = _INSTEAD.get(name, _LEAVE_OUT)
            raise ValueError(f"{call}: {name} is {shown}, but pythia_cpu supports only {values}: {advice}")
