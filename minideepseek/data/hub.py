"""Corpora by name from the hub: `hub:OWNER/NAME` or `hub:OWNER/NAME:CONFIG`, streamed, online only."""

import os
import re
from collections.abc import Iterator

from minideepseek.data.document import Corpus, Document, fingerprint
from minideepseek.errors import UserError

ELSE = "use stories, python or file:PATH"


def hub_corpus(name: str) -> Corpus:
    """The `text` column of the data set's train split, read as it arrives; nothing is stored but the tokens.

    Raises UserError for a malformed name, when `datasets` is not installed, and, on reading, when the data set cannot
    be reached or has no text column.
    """
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", name):
        raise UserError(f"hub:{name} is not a data set's name; write hub:OWNER/NAME or hub:OWNER/NAME:CONFIG")
    repository, _, config = name.partition(":")
    try:
        import datasets
    except ImportError:
        raise UserError(f'hub:{name} needs the datasets library: pip install "minideepseek[hub]"') from None

    def read() -> Iterator[Document]:
        if os.environ.get("HF_HUB_OFFLINE") == "1" or os.environ.get("HF_DATASETS_OFFLINE") == "1":
            raise UserError(f"hub:{name} needs the network, and HF_HUB_OFFLINE is set; {ELSE}")
        try:
            rows = iter(datasets.load_dataset(repository, config or None, split="train", streaming=True))
            for i, row in enumerate(rows):
                if not isinstance(row.get("text"), str):
                    raise UserError(f'hub:{name} has no text column "text" (its columns: {", ".join(row)})')
                if row["text"].strip():
                    yield Document(text=row["text"], source=f"{repository}/{i}")
        except UserError:
            raise
        except Exception as error:  # the library lets through whatever its HTTP client, parsers and file systems raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"cannot read hub:{name} ({reason}); check name and network, or {ELSE}") from None

    return Corpus(name=f"hub:{name}", fingerprint=fingerprint("hub", name), read=read, endless=True)
