"""Activations read and changed on their way: against transformers, and with the bits of `logits`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pythia_cpu
from bits import assert_same_bits
from pythia_cpu import Model, _core
from reference import TOLERANCE, Reference

TOKENS = np.random.default_rng(3).integers(0, 4096, 270).tolist()  # more than a chunk of attention (256 keys)
MODELS: dict[str, dict[str, Any]] = {
    "parallel": {"hidden_size": 160, "num_attention_heads": 2, "num_hidden_layers": 2},
    "sequential": {
        "hidden_size": 72,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "rotary_pct": 0.75,
        "parallel": False,
        "intermediate_size": 100,
    },
}
BLOCK = "blocks.1."


@pytest.fixture(scope="module", params=MODELS)
def checkpoint(request: pytest.FixtureRequest, make_checkpoint: Callable[..., Path]) -> Path:
    return make_checkpoint(**MODELS[request.param])


@pytest.fixture(scope="module")
def model(checkpoint: Path, make_model_file: Callable[..., Path]) -> Model:
    return pythia_cpu.load(make_model_file(checkpoint, "f32"), threads=2)


def assert_close(actual: np.ndarray, expected: np.ndarray, name: str) -> None:
    assert actual.dtype == np.float32
    assert actual.shape == expected.shape, name
    bound = TOLERANCE * max(np.abs(expected).max(), 1)
    assert np.abs(actual - expected).max() <= bound, name


# What transformers computes at the same places


class Watched:
    """A transformers model whose modules' inputs and outputs are kept, and may be changed, during `run`."""

    def __init__(self, reference: Reference) -> None:
        self.network = reference.model
        self._torch = reference._torch
        self.seen: dict[str, np.ndarray] = {}

    def _hooks(self, edits: dict[str, Callable[[Any], Any]]) -> Iterator[Any]:
        """Hooks on every module: `<module>.in` and `<module>.out` are its first argument and result."""

        def first(value: Any) -> Any:
            return value[0] if isinstance(value, tuple) else value

        def see(name: str, tensor: Any) -> Any:
            if name in edits:
                tensor = edits[name](tensor.clone())
            self.seen[name] = tensor[0].numpy().copy()
            return tensor

        for name, module in self.network.gpt_neox.named_modules():
            if name and "rotary" not in name and name != "layers":
                yield module.register_forward_pre_hook(
                    lambda _, inputs, name=name: (see(f"{name}.in", inputs[0]), *inputs[1:]) if inputs else None
                )
                yield module.register_forward_hook(
                    lambda _, __, output, name=name: (
                        (see(f"{name}.out", first(output)), *output[1:])
                        if isinstance(output, tuple)
                        else see(f"{name}.out", output)
                    )
                )

    def run(self, edits: dict[str, Callable[[Any], Any]] | None = None) -> np.ndarray:
        handles = list(self._hooks(edits or {}))
        self.seen.clear()
        try:
            with self._torch.inference_mode():
                output = self.network(self._torch.tensor([TOKENS]), output_attentions=True)
        finally:
            for handle in handles:
                handle.remove()
        self.patterns = [pattern[0].numpy() for pattern in output.attentions]
        return output.logits[0].numpy()


@pytest.fixture(scope="module")
def watched(checkpoint: Path, reference: Callable[[Path], Reference]) -> Watched:
    return Watched(reference(checkpoint))


def test_every_activation_is_that_of_transformers(model: Model, watched: Watched) -> None:
    logits = watched.run()
    run = model.run(TOKENS, capture="*")
    assert_close(run.logits, logits, "logits")
    found, seen = dict(run.activations), watched.seen
    heads, head_dim = model.config.num_attention_heads, model.config.hidden_size // model.config.num_attention_heads

    def check(name: str, expected: np.ndarray) -> None:
        assert_close(found.pop(name), expected, name)

    def check_norm(name: str, module: str) -> None:
        check(f"{name}.hook_scale", np.sqrt(seen[f"{module}.in"].var(-1, keepdims=True) + model.config.layer_norm_eps))
        check(f"{name}.hook_normalized", seen[f"{module}.out"])

    check("hook_embed", seen["embed_in.out"])
    for i in range(model.config.num_hidden_layers):
        block, layer = f"blocks.{i}.", f"layers.{i}"
        check(f"{block}hook_resid_pre", seen[f"{layer}.in"])
        check(f"{block}hook_resid_post", seen[f"{layer}.out"])
        check_norm(f"{block}ln1", f"{layer}.input_layernorm")
        check_norm(f"{block}ln2", f"{layer}.post_attention_layernorm")
        if not model.config.use_parallel_residual:
            check(f"{block}hook_resid_mid", seen[f"{layer}.post_attention_layernorm.in"])
        projected = seen[f"{layer}.attention.query_key_value.out"].reshape(len(TOKENS), heads, 3, head_dim)
        for part, name in enumerate("qkv"):
            check(f"{block}attn.hook_{name}", projected[:, :, part])
        check(f"{block}attn.hook_z", seen[f"{layer}.attention.dense.in"].reshape(len(TOKENS), heads, head_dim))
        check(f"{block}hook_attn_out", seen[f"{layer}.attention.dense.out"])
        check(f"{block}mlp.hook_pre", seen[f"{layer}.mlp.dense_h_to_4h.out"])
        check(f"{block}mlp.hook_post", seen[f"{layer}.mlp.dense_4h_to_h.in"])
        check(f"{block}hook_mlp_out", seen[f"{layer}.mlp.dense_4h_to_h.out"])

        # Transformers does not show its scores; its pattern is theirs softmax.
        check(f"{block}attn.hook_pattern", watched.patterns[i])
        queries, keys = (found.pop(f"{block}attn.hook_rot_{name}") for name in "qk")
        scores = found.pop(f"{block}attn.hook_attn_scores")
        masked = np.triu(np.ones(scores.shape[1:], bool), 1)
        assert (scores[:, masked] == -np.inf).all()
        products = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(head_dim)
        assert_close(np.where(masked, 0, scores), np.where(masked, 0, products).astype(np.float32), "scores")
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        assert_close(weights / weights.sum(-1, keepdims=True), watched.patterns[i], "softmax of scores")
    check_norm("ln_final", "final_layer_norm")
    assert not found


def test_names_are_in_the_order_of_the_pass(model: Model) -> None:
    assert list(model.run(TOKENS[:5], capture="*").activations) == model.activation_names
    assert ("blocks.0.hook_resid_mid" in model.activation_names) != model.config.use_parallel_residual


# Edits


def assert_changed(run: pythia_cpu.Run, logits: np.ndarray) -> None:
    assert np.abs(run.logits - logits).max() > 1e-3


def test_edits_do_what_they_do_in_transformers(model: Model, watched: Watched) -> None:
    heads, hidden = model.config.num_attention_heads, model.config.hidden_size
    steering = np.linspace(-2, 2, hidden, dtype=np.float32)
    plain = model.logits(TOKENS)

    def ablate(z: np.ndarray) -> None:
        z[:, heads - 1] = 0

    def ablate_columns(z: Any) -> Any:
        z[..., hidden - hidden // heads :] = 0
        return z

    def stretched(x: Any) -> Any:
        x[..., ::2] *= 1.5
        return x

    def queries_stretched(projected: Any) -> Any:
        parts = projected.view(*projected.shape[:-1], heads, 3, hidden // heads)
        parts[..., 0, ::2] *= 1.5
        return projected

    layer = "layers.1"
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"attn.hook_z": ablate}, {f"{layer}.attention.dense.in": ablate_columns}),
        ({"hook_resid_pre": lambda x: x + steering}, {f"{layer}.in": lambda x: x + watched._torch.tensor(steering)}),
        ({"hook_resid_post": stretched}, {f"{layer}.out": stretched}),
        ({"ln1.hook_normalized": stretched}, {f"{layer}.input_layernorm.out": stretched}),
        ({"ln2.hook_normalized": stretched}, {f"{layer}.post_attention_layernorm.out": stretched}),
        ({"attn.hook_q": stretched}, {f"{layer}.attention.query_key_value.out": queries_stretched}),
        ({"hook_attn_out": stretched}, {f"{layer}.attention.dense.out": stretched}),
        ({"mlp.hook_pre": stretched}, {f"{layer}.mlp.dense_h_to_4h.out": stretched}),
        ({"mlp.hook_post": stretched}, {f"{layer}.mlp.dense_4h_to_h.in": stretched}),
        (
            {"hook_mlp_out": stretched, "attn.hook_z": ablate},
            {f"{layer}.mlp.dense_4h_to_h.out": stretched, f"{layer}.attention.dense.in": ablate_columns},
        ),
    ]
    for ours, theirs in cases:
        run = model.run(TOKENS, edit={BLOCK + name: function for name, function in ours.items()})
        assert_changed(run, plain)
        assert_close(run.logits, watched.run(theirs), str(ours))


def test_edits_of_attention(model: Model) -> None:
    """The same change made to queries, scores or the pattern; and values weighed by a pattern made up."""
    plain = model.logits(TOKENS)
    by_query = model.run(
        TOKENS, edit={f"{BLOCK}attn.hook_rot_q": lambda q: q * 1.5}, capture=f"{BLOCK}attn.hook_pattern"
    )
    by_scores = model.run(TOKENS, edit={f"{BLOCK}attn.hook_attn_scores": lambda scores: scores * 1.5})
    by_pattern = model.run(
        TOKENS, edit={f"{BLOCK}attn.hook_pattern": lambda _: by_query.activations[f"{BLOCK}attn.hook_pattern"]}
    )
    for run in (by_scores, by_pattern):
        assert_changed(run, plain)
        assert_close(run.logits, by_query.logits, "attention")

    # Every query looks at the last token, which is masked for it, and so do the scores that say the same.
    def last(pattern: np.ndarray) -> np.ndarray:
        pattern[:] = 0
        pattern[:, :, -1] = 1
        return pattern

    def last_score(scores: np.ndarray) -> np.ndarray:
        scores[:] = -np.inf
        scores[:, :, -1] = 7
        return scores

    names = [f"{BLOCK}attn.hook_{name}" for name in ("v", "z")]
    for name, function in (("pattern", last), ("attn_scores", last_score)):
        values, weighed = model.run(
            TOKENS, capture=names, edit={f"{BLOCK}attn.hook_{name}": function}
        ).activations.values()
        np.testing.assert_array_equal(weighed, np.broadcast_to(values[-1], values.shape))

    def nothing(scores: np.ndarray) -> None:
        scores[:] = -np.inf

    run = model.run(TOKENS, capture=f"{BLOCK}attn.hook_*", edit={f"{BLOCK}attn.hook_attn_scores": nothing})
    assert not run.activations[f"{BLOCK}attn.hook_pattern"].any()
    assert not run.activations[f"{BLOCK}attn.hook_z"].any()


def test_edits_of_scale(model: Model) -> None:
    """LayerNorm divides by the edited scale: of twice the scale, what is not bias is half."""
    bias = model._file.read("gpt_neox.final_layer_norm.bias")
    plain = model.run(TOKENS, capture="ln_final.*").activations["ln_final.hook_normalized"]
    edit = {"ln_final.hook_scale": lambda scale: 2 * scale}
    run = model.run(TOKENS, capture="ln_final.hook_normalized", edit=edit)
    assert_close(run.activations["ln_final.hook_normalized"], (plain - bias) / 2 + bias, "normalized")


def test_what_an_edit_may_do(model: Model) -> None:
    plain = model.logits(TOKENS)
    name = f"{BLOCK}hook_mlp_out"
    seen: list[str] = []

    def record(name: str, array: np.ndarray) -> None:
        assert array.flags.writeable
        seen.append(name)

    assert_same_bits(model.run(TOKENS, edit=record).logits, plain)
    assert seen == model.activation_names
    assert_same_bits(model.run(TOKENS, edit=lambda _, array: array.copy()).logits, plain)

    # Returned or in place, as a list, in float64; and the captured array is the edited one.
    def in_place(array: np.ndarray) -> None:
        array *= 2

    doubled = model.run(TOKENS, edit={name: in_place}, capture=name)
    for function in (lambda x: 2 * x, lambda x: (2 * x).tolist(), lambda x: 2 * x.astype(np.float64)):
        assert_same_bits(model.run(TOKENS, edit={name: function}).logits, doubled.logits)
    before = model.run(TOKENS, capture=name).activations[name]
    np.testing.assert_array_equal(doubled.activations[name], 2 * before)

    # Functions of one name run in order; a function may use the model; its result stays its own.
    kept = np.zeros_like(before)

    def replace(array: np.ndarray) -> np.ndarray:
        assert_same_bits(model.logits(TOKENS), plain)
        model.threads = model.threads % 3 + 1
        return kept

    run = model.run(TOKENS, edit={"*.hook_mlp_out": lambda x: x + 5, name: replace}, capture=name)
    assert not run.activations[name].any() and run.activations[name] is not kept
    model.threads = 2

    def fail(array: np.ndarray) -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        model.run(TOKENS, edit={name: fail})
    assert_same_bits(model.run(TOKENS).logits, plain)


# The same bits


@pytest.mark.parametrize("weights", _core.WEIGHT_FORMATS)
def test_bits_of_logits(
    checkpoint: Path, make_model_file: Callable[..., Path], make_checkpoint: Callable[..., Path], weights: str
) -> None:
    if weights == "bf16":
        checkpoint = make_checkpoint(**MODELS["parallel"], dtype="bfloat16")
    path = make_model_file(checkpoint, weights)
    plain = pythia_cpu.load(path, threads=1).logits(TOKENS)
    expected: dict[str, np.ndarray] = {}
    edited: np.ndarray | None = None
    isas = _core.supported_isas()
    for isa, threads in [*((isa, 1) for isa in isas), (isas[0], 2)]:
        core = _core.Model.open(str(path), threads, isa)
        found: dict[str, np.ndarray] = {}
        tokens = np.array(TOKENS, np.int32)

        def keep(_: int, name: str, array: np.ndarray, found: dict[str, np.ndarray] = found) -> None:
            found[name] = array

        assert_same_bits(core.inspect([tokens], set(core.hook_names), keep), plain)
        for name in expected:
            assert_same_bits(found[name], expected[name])
        expected = found
        change = core.inspect(
            [tokens], {"blocks.0.attn.hook_pattern", "ln_final.hook_scale"}, lambda _, name, x: x * np.float32(0.9)
        )
        assert_same_bits(change, change if edited is None else edited)
        edited = change


def test_short_sequences_and_the_whole_context(
    make_checkpoint: Callable[..., Path], make_model_file: Callable[..., Path]
) -> None:
    model = pythia_cpu.load(make_model_file(make_checkpoint(**MODELS["parallel"], max_position_embeddings=600)))
    for length in (1, 2, 15, 16, 17, 600):
        tokens = (TOKENS * 3)[:length]
        run = model.run(tokens, capture=("hook_embed", "blocks.0.attn.hook_pattern"))
        assert_same_bits(run.logits, model.logits(tokens))
        assert [a.shape for a in run.activations.values()] == [(length, 160), (2, length, length)]
    with pytest.raises(ValueError, match="601 tokens.*holds 600"):
        model.run([1] * 601)


def test_runs_in_several_threads(model: Model) -> None:
    plain = model.logits(TOKENS)
    with ThreadPoolExecutor(3) as pool:
        for run in pool.map(lambda _: model.run(TOKENS, edit=lambda name, array: None), range(6)):
            assert_same_bits(run.logits, plain)


# What is refused


def test_unknown_names(model: Model) -> None:
    with pytest.raises(ValueError, match=r"no activation 'blocks.0.hook_z'; near it: blocks.0.attn.hook_z"):
        model.run(TOKENS, capture=["hook_embed", "blocks.0.hook_z"])
    with pytest.raises(ValueError, match=r"no activation 'blocks.9.\*'.*activation_names"):
        model.run(TOKENS, capture="blocks.9.*")
    with pytest.raises(ValueError, match=r"no activation 'hook_embd'; near it: hook_embed"):
        model.run(TOKENS, edit={"hook_embd": lambda x: x})
    with pytest.raises(ValueError, match="found 3 of type int, expected the name"):
        model.run(TOKENS, capture=[3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="capture is of type NoneType, expected names or patterns"):
        model.run(TOKENS, capture=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x: x[:-1], r"hook_embed returned shape \[269, \d+\], expected \[270, \d+\]"),
        (lambda x: x * np.nan, "hook_embed gave values that are not finite"),
        (lambda x: x * np.float32(np.inf), "not finite"),
        (lambda x: "text", "the edit of hook_embed returned is an array of <U4, expected real numbers"),
        (lambda x: x.fill(np.nan), "not finite"),
    ],
)
def test_unsound_edits(model: Model, result: Callable[[np.ndarray], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), np.errstate(invalid="ignore"):
        model.run(TOKENS, edit={"hook_embed": result})


def test_other_arguments(model: Model) -> None:
    with pytest.raises(ValueError, match=r"edit\['hook_embed'\] is of type int"):
        model.run(TOKENS, edit={"hook_embed": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="edit is of type str"):
        model.run(TOKENS, edit="hook_embed")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not finite"):
        model.run(TOKENS, edit={"blocks.0.attn.hook_attn_scores": lambda x: -x})
    with pytest.raises(ValueError, match="tokens has no tokens"):
        model.run([])
    with pytest.raises(ValueError, match="token id 9999"):
        model.run([9999])
