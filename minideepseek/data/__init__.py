"""Text in, token batches out: corpora, cleaning, the tokenizer, packing, prepared data sets and the loader."""

from minideepseek.data.build import SplitStats
from minideepseek.data.cleaning import Cleaning, clean, cleaned
from minideepseek.data.corpus import open_corpus
from minideepseek.data.dataset import TokenData, prepare
from minideepseek.data.document import Corpus, Document, corpus_of
from minideepseek.data.loader import Loader, validation_batches
from minideepseek.data.packing import encode_documents, segment_ids
from minideepseek.data.recall import Recall, RecallRows
from minideepseek.data.remix import remix
from minideepseek.data.stories import Fact, fact_table, story
from minideepseek.data.tokenizer import Tokenizer

__all__ = [
    "Cleaning",
    "Corpus",
    "Document",
    "Fact",
    "Loader",
    "Recall",
    "RecallRows",
    "SplitStats",
    "TokenData",
    "Tokenizer",
    "clean",
    "cleaned",
    "corpus_of",
    "encode_documents",
    "fact_table",
    "open_corpus",
    "prepare",
    "remix",
    "segment_ids",
    "story",
    "validation_batches",
]
