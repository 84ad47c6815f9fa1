"""Text to token ids and back: byte-level BPE with DeepSeek's pre-tokenisation.

The training and the encoding are the `tokenizers` library's; what is DeepSeek's is where a token may not reach across.
The V1 report (arXiv 2401.02954, section 2.1): merges stay within one class of characters (line breaks, punctuation,
Chinese/Japanese/Korean, letters) and numbers fall into single digits. `bpe.py` shows the same algorithm by hand.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from minideepseek.data.bpe import CHARACTER_TO_BYTE
from minideepseek.errors import UserError
from minideepseek.files import atomic_file

# The roles and the spelling of the released DeepSeek tokenizers; V3 puts begin, end and padding at ids 0, 1, 2.
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
FIM_BEGIN, FIM_HOLE, FIM_END = "<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
SPECIAL_TOKENS = (BOS, EOS, PAD, FIM_BEGIN, FIM_HOLE, FIM_END, USER, ASSISTANT)
MIN_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256

_CJK = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}"
_BLANK = r"[^\S\r\n]"
CHARACTER_CLASSES = (
    r"[\r\n]",  # each line break by itself
    rf"{_BLANK}?[\p{{L}}\p{{M}}&&[^{_CJK}]]+",  # letters, with the one blank before them
    rf"[{_CJK}]+",  # written without blanks: a run is one piece, and merges find the words
    r"\p{N}",  # every digit by itself
    rf"{_BLANK}?[\p{{P}}\p{{S}}]+",  # punctuation and symbols, with the one blank before them
    rf"{_BLANK}+(?!\S)|{_BLANK}",  # indentation, all but the blank that belongs to the next word
)


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """Cuts text into the pieces that no token crosses, then spells each piece in bytes."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(CHARACTER_CLASSES)), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A byte-level BPE tokenizer: any text round-trips exactly, nothing is ever unknown.

    Text is only ever text: a document that spells out ``<｜end▁of▁sentence｜>`` yields ordinary tokens, so data cannot
    forge a control token. Control tokens are added by id (`bos_id`, `eos_id`, ...).

    A model's vocabulary may be larger than the tokenizer's (V1: 100,015 tokens in 102,400 rows); ids beyond
    `vocab_size` decode to nothing.

    bos, eos, pad: how this tokenizer spells the three; others than ours differ.
    """

    backend: Backend
    bos: str = BOS
    eos: str = EOS
    pad: str = PAD

    def __post_init__(self) -> None:
        # Not kept in tokenizer.json: whether "<｜User｜>" typed by a user is text or a command is the reader's choice.
        self.backend.encode_special_tokens = True

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, progress: bool = False) -> "Tokenizer":
        """Learn merges from the texts until there are `vocab_size` tokens, special tokens and 256 bytes included.

        A small corpus may run out of pairs earlier; look at `vocab_size` of the result. The same texts in the same
        order give the same tokenizer.json, byte for byte. Raises UserError for a vocabulary without room for bytes.
        """
        if vocab_size < MIN_VOCAB_SIZE:
            raise UserError(
                f"vocab_size={vocab_size} is too small: {len(SPECIAL_TOKENS)} special tokens and 256 bytes "
                f"already need {MIN_VOCAB_SIZE}"
            )
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizer()
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=progress,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> "Tokenizer":
        """Read `directory`/tokenizer.json, ours or any other byte-level one in the ecosystem's format.

        Raises UserError if there is none or it cannot be read.
        """
        path = Path(directory) / "tokenizer.json"
        try:
            text = path.read_text(encoding="utf-8")
            config = path.with_name("tokenizer_config.json")
            return cls.from_json(text, **_roles(json.loads(config.read_text("utf-8")) if config.exists() else {}))
        except FileNotFoundError:
            raise UserError(
                f"no tokenizer in {os.fspath(directory)!r}: tokenizer.json is missing; "
                "give a directory written by Tokenizer.save, minideepseek train or save_pretrained"
            ) from None
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror or error}") from None
        except ValueError as error:
            raise UserError(f"{path} is damaged or of another format ({error}); restore or rebuild it") from None

    @classmethod
    def from_json(cls, text: str, **roles: str) -> "Tokenizer":
        """The tokenizer that `to_json` wrote; `roles` as in the class. Raises ValueError for anything else."""
        try:
            return cls(Backend.from_str(text), **roles)
        except Exception as error:  # the library raises bare Exception
            raise ValueError(str(error).splitlines()[0]) from None

    def to_json(self) -> str:
        """The contents of tokenizer.json: the whole tokenizer."""
        return self.backend.to_str(pretty=True)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write tokenizer.json and tokenizer_config.json, which `transformers.AutoTokenizer` reads too.

        Raises UserError if the place cannot be written.
        """
        roles = {"bos_token": self.bos, "eos_token": self.eos, "pad_token": self.pad}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            **{role: token for role, token in roles.items() if self.backend.token_to_id(token) is not None},
        }
        texts = {
            "tokenizer.json": self.to_json(),
            "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
        }
        for name, text in texts.items():
            with atomic_file(Path(directory) / name) as file:
                file.write_text(text, encoding="utf-8")

    def encode(self, text: str, *, bos: bool = False) -> list[int]:
        """The ids of the text; `bos` puts the begin-of-sentence token in front."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return [self.bos_id, *ids] if bos else ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text; several times quicker than one by one, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """The text of the ids. Bytes that are not UTF-8 (half a character) show as U+FFFD."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    @cached_property
    def vocab_size(self) -> int:
        """How many tokens there are: ids run from 0 to vocab_size - 1."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """How each id reads by itself, for people: its text, or \\xNN for bytes that are part of a character."""
        return [self._token(int(i)) for i in ids]

    def _token(self, index: int) -> str:
        if index in self.backend.get_added_tokens_decoder():
            return self.backend.get_added_tokens_decoder()[index].content
        text = self.backend.decode([index], skip_special_tokens=False)
        if "\ufffd" not in text:
            return text
        spelling = self.backend.id_to_token(index) or ""
        return "".join(f"\\x{byte:02x}" for byte in (CHARACTER_TO_BYTE[character] for character in spelling))

    def special_id(self, token: str) -> int:
        """The id of a special token such as `FIM_BEGIN`. Raises UserError if this tokenizer has none."""
        index = self.backend.token_to_id(token)
        if index is None:
            raise UserError(f"this tokenizer has no token {token}; train one with minideepseek, or do without it")
        return index

    bos_id = cached_property(lambda self: self.special_id(self.bos))  # begin of sentence
    eos_id = cached_property(lambda self: self.special_id(self.eos))  # end of sentence; also between packed documents
    pad_id = cached_property(lambda self: self.special_id(self.pad))  # fills up prompts of unequal length; never learnt
    fim_begin_id = cached_property(lambda self: self.special_id(FIM_BEGIN))  # before the prefix
    fim_hole_id = cached_property(lambda self: self.special_id(FIM_HOLE))  # where the middle was taken out
    fim_end_id = cached_property(lambda self: self.special_id(FIM_END))  # after the suffix; the middle follows
    user_id = cached_property(lambda self: self.special_id(USER))  # a user's turn begins
    assistant_id = cached_property(lambda self: self.special_id(ASSISTANT))  # the assistant's turn begins

    @cached_property
    def fingerprint(self) -> str:
        """A digest of tokenizer.json: equal if and only if the tokenizers are."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()


def _roles(config: dict[str, object]) -> dict[str, str]:
    """The tokens that tokenizer_config.json names for bos, eos and pad, as text or as objects with the text in them."""
    roles = {}
    for role in ("bos", "eos", "pad"):
        token = config.get(f"{role}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            roles[role] = content
    return roles
