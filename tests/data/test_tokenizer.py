import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minideepseek.data import Tokenizer, story
from minideepseek.data.bpe import CHARACTER_TO_BYTE, encode_bpe, train_bpe
from minideepseek.data.tokenizer import EOS, FIM_HOLE, MIN_VOCAB_SIZE, SPECIAL_TOKENS, USER, pre_tokenizer
from minideepseek.errors import UserError

TEXTS = [story(i) for i in range(300)] + ["def f(x):\n    return x + 12\n\n\nclass A:\n\tpass\n" * 3]
SAMPLES = [
    "Hello, wörld! It's 2024.\n\n  def f(x):\n        return 1\t# tab\r\n",
    "从前有一只小狐狸，它住在森林里。“你好！”カタカナ 한국어 ①②",
    "emoji 👩‍👩‍👧 🙂, e\u0301 combining, \u202e bidi, \x00\x07 control, \U0010ffff last",
    " leading, trailing   \n   \n",
    "",
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 700)


def pieces(text: str) -> list[str]:
    """The pre-tokeniser's pieces as text."""
    spelled = [piece for piece, _ in pre_tokenizer().pre_tokenize_str(text)]
    return [bytes(CHARACTER_TO_BYTE[character] for character in piece).decode() for piece in spelled]


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_any_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("text", SAMPLES)
def test_awkward_text_round_trips(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_spelled_out_control_tokens_stay_text(tokenizer: Tokenizer) -> None:
    text = "".join(SPECIAL_TOKENS)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert min(ids) >= len(SPECIAL_TOKENS)


def test_pre_tokeniser_keeps_character_classes_apart() -> None:
    assert pieces("Hi, 你好world！\n\n  x=120") == [
        "Hi",
        ",",
        " ",
        "你好",
        "world",
        "！",
        "\n",
        "\n",
        " ",
        " x",
        "=",
        *"120",
    ]
    assert pieces("    return a") == ["   ", " return", " a"]
    assert pieces("naïve don't") == ["naïve", " don", "'", "t"]


@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab 1٣,。你\n\r\t🙂\u3042"))
def test_no_piece_mixes_digits_line_breaks_or_scripts(text: str) -> None:
    assert "".join(pieces(text)) == text
    for piece in pieces(text):
        if any(character in "\r\n" or character.isdecimal() for character in piece):
            assert len(piece) == 1
        classes = {"你あ".__contains__(character) for character in piece}
        assert len(classes) == 1


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokens(tokenizer.encode("31415")) == list("31415")


def test_ids_follow_the_deepseek_roles(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    fim = {tokenizer.fim_begin_id, tokenizer.fim_hole_id, tokenizer.fim_end_id}
    turns = {tokenizer.user_id, tokenizer.assistant_id}
    assert sorted({0, 1, 2} | fim | turns) == list(range(8))
    assert tokenizer.tokens([tokenizer.eos_id, tokenizer.fim_hole_id, tokenizer.user_id]) == [EOS, FIM_HOLE, USER]


def test_bos_goes_in_front(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hello", bos=True) == [tokenizer.bos_id, *tokenizer.encode("hello")]


def test_batch_equals_one_by_one(tokenizer: Tokenizer) -> None:
    texts = TEXTS[:20] + SAMPLES
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_vocab_size_is_as_asked_and_bounds_the_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 700
    assert max(max(ids) for ids in tokenizer.encode_batch(TEXTS)) < 700


def test_small_corpus_ends_early_with_fewer_tokens() -> None:
    assert Tokenizer.train(["ab ab"], 5000).vocab_size < 300


def test_ids_of_padding_rows_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([*tokenizer.encode("ok"), tokenizer.vocab_size, 102_399]) == "ok"


def test_half_a_character_shows_its_bytes(tokenizer: Tokenizer) -> None:
    assert "".join(tokenizer.tokens(tokenizer.encode("🙂"))) == "\\xf0\\x9f\\x99\\x82"


def test_training_is_deterministic_to_the_byte(tokenizer: Tokenizer) -> None:
    assert Tokenizer.train(iter(TEXTS), 700).to_json() == tokenizer.to_json()
    assert Tokenizer.train(TEXTS[1:], 700).fingerprint != tokenizer.fingerprint


def test_save_and_load_gives_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "new" / "folder")
    loaded = Tokenizer.load(tmp_path / "new" / "folder")
    assert loaded.to_json() == tokenizer.to_json()
    assert loaded.encode("".join(SPECIAL_TOKENS)) == tokenizer.encode("".join(SPECIAL_TOKENS))


@pytest.mark.parametrize("model_type", [None, "llama", "deepseek_v2", "deepseek_v3"])
def test_transformers_reads_it_and_gives_the_same_ids(
    tokenizer: Tokenizer, tmp_path: Path, model_type: str | None
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:20] + SAMPLES:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(theirs.encode(text)) == text
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    assert theirs.convert_tokens_to_ids(FIM_HOLE) == tokenizer.fim_hole_id


def test_foreign_roles_are_read_from_the_config(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    config = {"eos_token": {"content": USER}, "pad_token": EOS, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (0, tokenizer.user_id, tokenizer.eos_id)
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").eos_id == tokenizer.user_id


def test_missing_and_damaged_tokenizers_are_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tokenizer\.json is missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError, match="damaged") as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match="264"):
        Tokenizer.train(TEXTS, MIN_VOCAB_SIZE - 1)


def test_bpe_by_hand_learns_the_merges_of_the_library(tokenizer: Tokenizer) -> None:
    spelled = json.loads(tokenizer.to_json())["model"]["merges"]
    theirs = [tuple(bytes(CHARACTER_TO_BYTE[character] for character in half) for half in pair) for pair in spelled]
    ours = train_bpe((piece for text in TEXTS for piece in pieces(text)), len(theirs))
    assert ours == theirs
    for text in TEXTS[:5] + SAMPLES:
        by_hand = [token for piece in pieces(text) for token in encode_bpe(piece, ours)]
        spelling = (tokenizer.backend.id_to_token(i) for i in tokenizer.encode(text))
        assert by_hand == [bytes(CHARACTER_TO_BYTE[character] for character in token) for token in spelling]


def test_bpe_by_hand_ends_when_no_pair_is_left() -> None:
    assert train_bpe(["aa", "ab"], 100) == [(b"a", b"a"), (b"a", b"b")]
