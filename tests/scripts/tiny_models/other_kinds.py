"""Models that give something else than one vector from a transformer: a vector per token, sums of rows of a table."""

import math
from pathlib import Path

from safetensors.torch import save_file

from .catalogue import cases, model
from .encoders import modernbert_config, modernbert_tokenizer
from .files import write_json
from .layout import IDENTITY, bert_config, write_dense, write_modules
from .texts import LONG, SENTENCE, TEXTS
from .vocabularies import BERT_SPECIALS, bert_tokenizer, special, write_bert_tokenizer, write_tokenizer
from .weights import noise, short, write_weights


QUESTIONS = ["Where does the crab wait?", "tide", ""]
PASSAGES = [SENTENCE, TEXTS[7], "", LONG * 3]
MULTI_VECTOR_CASES = [
    dict(name="queries", task="query", texts=[*QUESTIONS, LONG]),
    dict(name="documents", task="document", texts=PASSAGES),
    dict(name="maxsim", queries=QUESTIONS, texts=PASSAGES),
]


@model(
    "colbert-pylate", "ColBERT in PyLate's layout", "a unit vector per token",
    "[Q] and [D] tokens as prefixes; queries filled up with [MASK]; punctuation of documents dropped",
    runner="multi_vector",
)  # fmt: skip
def colbert_pylate(folder: Path) -> list:
    tokenizer = bert_tokenizer()
    special(tokenizer, ["[Q] ", "[D] "])
    vocabulary = write_tokenizer(folder, tokenizer, "BertTokenizer", BERT_SPECIALS, 512, do_lower_case=True)
    write_json(folder / "config.json", bert_config(20, 5, 2, 32, vocabulary, 40))
    write_weights(folder)
    write_modules(folder, [("Transformer", ""), ("pylate.models.Dense.Dense", "1_Dense")])
    write_dense(folder / "1_Dense", 20, 9, False, IDENTITY)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 29, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        dict(
            model_type="ColBERT", prompts={}, default_prompt_name=None, similarity_fn_name="MaxSim",
            query_prefix="[Q] ", document_prefix="[D] ",
            query_length=11, document_length=30, attend_to_expansion_tokens=False,
            skiplist_words=list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ),
    )  # fmt: skip
    return MULTI_VECTOR_CASES


@model(
    "colbert-modernbert", "GTE-ModernColBERT-v1", "a unit vector per token",
    "PyLate's layout without model_type; local attention that reaches as far as a filled query is long, and no further",
    runner="multi_vector",
)  # fmt: skip
def colbert_modernbert(folder: Path) -> list:
    tokenizer = modernbert_tokenizer()
    special(tokenizer, ["[Q] ", "[D] "])
    vocabulary = write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", BERT_SPECIALS, 512)
    write_json(folder / "config.json", modernbert_config(20, 2, 3, 22, vocabulary, 22, tokenizer.token_to_id))
    write_weights(folder)
    write_modules(folder, [("Transformer", ""), ("pylate.models.Dense.Dense", "1_Dense")])
    write_dense(folder / "1_Dense", 20, 9, False, IDENTITY)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 29, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        dict(
            prompts={}, default_prompt_name=None, similarity_fn_name="MaxSim", query_prefix="[Q] ",
            document_prefix="[D] ", query_length=11, document_length=30, attend_to_expansion_tokens=False,
            skiplist_words=list("!.,"),
        ),
    )  # fmt: skip
    return MULTI_VECTOR_CASES


@model(
    "colbert-stanford", "colbertv2.0 in its original layout", "a unit vector per token",
    "architecture HF_ColBERT; `bert.` prefix and linear.weight in one file; artifact.metadata; [unused0] and "
    "[unused1] as markers",
    runner="multi_vector",
)  # fmt: skip
def colbert_stanford(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, more=["[unused0]", "[unused1]"])
    write_json(folder / "config.json", bert_config(18, 3, 2, 29, vocabulary, 40, architectures=["HF_ColBERT"]))
    linear = short(noise((8, 18), folder.name, "linear") / math.sqrt(18))
    write_weights(folder, prefix="bert.", extra={"linear.weight": linear})
    write_json(
        folder / "artifact.metadata",
        dict(
            query_token_id="[unused0]", doc_token_id="[unused1]", query_token="[Q]", doc_token="[D]", dim=8,
            similarity="cosine", doc_maxlen=27, query_maxlen=12, mask_punctuation=True, attend_to_mask_tokens=False,
        ),
    )  # fmt: skip
    return MULTI_VECTOR_CASES


@model(
    "static-model2vec", "potion-base-8M (layout of model2vec)", "mean of rows, Normalize",
    "one tensor `embeddings` of odd width; no special tokens are added; no limit; a text without tokens is a "
    "zero vector",
)  # fmt: skip
def static_model2vec(folder: Path) -> list:
    tokenizer = bert_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    rows = noise((tokenizer.get_vocab_size(), 37), folder.name, "rows")
    save_file({"embeddings": rows}, folder / "model.safetensors", {"format": "pt"})
    config = dict(
        model_type="model2vec", architectures=["StaticModel"], tokenizer_name="bert", apply_pca=37, apply_zipf=True,
        hidden_dim=37, seq_length=1000000, normalize=True,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_modules(folder, [("StaticEmbedding", "."), ("Normalize", "1_Normalize")])
    return [case for case in cases() if "max_length" not in case]


@model(
    "static-st", "static-retrieval-mrl-en-v1", "mean of rows, no Normalize",
    "0_StaticEmbedding with `embedding.weight`; vectors keep their length; a prompt by name; Matryoshka",
)  # fmt: skip
def static_st(folder: Path) -> list:
    (folder / "0_StaticEmbedding").mkdir()
    tokenizer = bert_tokenizer()
    tokenizer.save(str(folder / "0_StaticEmbedding" / "tokenizer.json"), pretty=False)
    rows = noise((tokenizer.get_vocab_size(), 31), folder.name, "rows")
    save_file({"embedding.weight": rows}, folder / "0_StaticEmbedding" / "model.safetensors", {"format": "pt"})
    write_modules(folder, [("StaticEmbedding", "0_StaticEmbedding")])
    write_json(
        folder / "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    )
    return [case for case in cases(["query"], dims=(10,)) if "max_length" not in case]
