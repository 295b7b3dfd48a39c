"""Growing sequences: the same bits as the whole sequence at once, whatever was appended, cut and copied before."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pythia_cpu
from pythia_cpu import _session
from pythia_cpu._passes import append_in_chunks
from pythia_cpu._session import append_each

TOKENS = np.random.default_rng(3).integers(0, 4096, 2049).tolist()


@pytest.fixture(scope="module")
def model() -> pythia_cpu.Model:
    return pythia_cpu.load()


@pytest.fixture(scope="module")
def whole(model: pythia_cpu.Model) -> np.ndarray:
    """Logits of the first tokens of TOKENS."""
    return model.logits(TOKENS[:700])


@pytest.mark.parametrize("cuts", [[1, 2, 3], [17], [512], [511, 513], [16, 32, 33, 600], list(range(1, 40))], ids=str)
def test_however_it_is_cut(model: pythia_cpu.Model, whole: np.ndarray, cuts: list[int]) -> None:
    session = model.session()
    parts = [session.append(TOKENS[a:b]) for a, b in zip([0, *cuts], [*cuts, 700], strict=True)]
    assert all(part.dtype == np.float32 for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert session.tokens == TOKENS[:700]
    assert len(session) == 700


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["append", "truncate", "fork"]), st.integers(0, 40)), max_size=12))
def test_any_history_gives_the_logits_of_the_tokens(model: pythia_cpu.Model, steps: list[tuple[str, int]]) -> None:
    rng = np.random.default_rng(len(steps))
    session, tokens = model.session(), []
    for step, n in steps:
        if step == "append":
            new = rng.integers(0, 4096, n).tolist()
            tokens += new
            logits = session.append(new)
            assert logits.shape == (n, 4096)
            if n:
                np.testing.assert_array_equal(logits, model.logits(tokens)[len(tokens) - n :])
        elif step == "truncate":
            n = min(n, len(tokens))
            session.truncate(n)
            del tokens[n:]
        else:
            other = session.fork()
            session.append([1, 2, 3])  # leaves the fork alone
            session = other
        assert session.tokens == tokens


def test_tokens_that_are_only_read(model: pythia_cpu.Model) -> None:
    session = model.session()
    assert session.append(TOKENS[:600], logits=False).shape == (0, model.config.vocab_size)
    np.testing.assert_array_equal(session.append(TOKENS[600:610]), model.logits(TOKENS[:610])[600:])


def test_copies_are_forks(model: pythia_cpu.Model) -> None:
    session = model.session()
    session.append([5, 6])
    for other in (copy.copy(session), copy.deepcopy(session)):
        other.append([7])
        assert (session.tokens, other.tokens) == ([5, 6], [5, 6, 7])


def test_forks_go_their_own_ways(model: pythia_cpu.Model) -> None:
    trunk = model.session()
    trunk.append(TOKENS[:50])
    forks = [trunk.fork() for _ in range(3)]
    trunk.truncate(10)
    for i, fork in enumerate(forks):
        tokens = [i, i + 1]
        np.testing.assert_array_equal(fork.append(tokens), model.logits(TOKENS[:50] + tokens)[50:])
        assert fork.tokens == TOKENS[:50] + tokens
    np.testing.assert_array_equal(trunk.append(TOKENS[10:12]), model.logits(TOKENS[:12])[10:])


def test_full_context(model: pythia_cpu.Model) -> None:
    session = model.session()
    session.append(TOKENS[:2047])
    with pytest.raises(ValueError, match=r"2047 tokens and tokens holds 2 more.*2048"):
        session.append(TOKENS[:2])
    session.append(TOKENS[2047:2048])
    assert len(session) == model.context_length
    with pytest.raises(ValueError, match="truncate first"):
        session.append([1])
    assert session.append([]).shape == (0, 4096)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [("text", "encode it first"), ([4096], "4096"), ([-1], "-1"), ([1.5], "1.5"), (None, "NoneType"), ([[1]], "list")],
    ids=str,
)
def test_errors_change_nothing(model: pythia_cpu.Model, tokens: Any, message: str) -> None:
    session = model.session()
    session.append(TOKENS[:5])
    with pytest.raises(ValueError, match=message):
        session.append(tokens)
    for n in (-1, 6, 2.0, True, None):
        with pytest.raises(ValueError, match="n is"):
            session.truncate(n)  # type: ignore[arg-type]
    assert session.tokens == TOKENS[:5]
    session.tokens.append(3)  # a copy
    np.testing.assert_array_equal(session.append([7]), model.logits([*TOKENS[:5], 7])[5:])


def test_an_interruption_between_cache_and_tokens(model: pythia_cpu.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session()
    session.append(TOKENS[:20])

    def interrupted(*arguments: Any, **options: Any) -> Any:
        append_in_chunks(*arguments, **options)
        raise KeyboardInterrupt

    class Tokens(list[int]):
        def __delitem__(self, place: Any) -> None:
            raise KeyboardInterrupt

    for step in ("append", "truncate"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            if step == "append":
                patch.setattr(_session, "append_in_chunks", interrupted)
                session.append([5, 6, 7])
            else:
                patch.setattr(session, "_tokens", Tokens(session.tokens))
                session.truncate(10)
        tokens = session.tokens
        fork = session.fork()
        for one in (session, fork):
            np.testing.assert_array_equal(one.append([8, 9]), model.logits([*tokens, 8, 9])[len(tokens) :])
            assert one.tokens == [*tokens, 8, 9]


def test_threads_share_a_session(model: pythia_cpu.Model) -> None:
    session = model.session()
    rows: list[tuple[int, np.ndarray]] = []

    def work(token: int) -> None:
        for _ in range(20):
            rows.append((token, session.append([token])))

    threads = [threading.Thread(target=work, args=(token,)) for token in (5, 9, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tokens = session.tokens
    assert sorted(tokens) == [5] * 20 + [9] * 20 + [13] * 20
    found = {(token, row.tobytes()) for token, row in rows}
    assert found == {(token, row.tobytes()) for token, row in zip(tokens, model.logits(tokens), strict=True)}


@pytest.mark.parametrize("logits", [True, False])
def test_several_sessions_together(model: pythia_cpu.Model, logits: bool) -> None:
    """Each as alone, whether they fit in one pass or not; an error leaves all as they were."""
    rng = np.random.default_rng(7)
    texts = [rng.integers(0, model.config.vocab_size, n) for n in (5, 0, 30, 600, 40, 3, 500, 1)]
    sessions, alone = ([model.session() for _ in texts] for _ in range(2))
    for session in (*sessions[::2], *alone[::2]):
        session.append([9, 8])
    found = append_each(sessions, texts, logits=logits)
    for session, other, text, rows in zip(sessions, alone, texts, found, strict=True):
        expected = other.append(text, logits=logits)
        assert rows.shape == expected.shape
        np.testing.assert_array_equal(rows, expected)
        assert session.tokens == other.tokens
        np.testing.assert_array_equal(session.append([3]), other.append([3]))
    assert [len(rows) for rows in append_each(sessions[:2], [[], []])] == [0, 0]
    before = [session.tokens for session in sessions]
    long = [0] * model.context_length
    with pytest.raises(ValueError, match="the model's context holds"):
        append_each(sessions, [[1]] * 7 + [long])
    with pytest.raises(ValueError, match="holds token id"):
        append_each(sessions[:2], [[1], [-1]])
    assert [session.tokens for session in sessions[1:]] == [*([*ids, 1] for ids in before[1:7]), before[7]]
