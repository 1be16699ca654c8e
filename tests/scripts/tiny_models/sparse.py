"""Models that give weights of tokens: masked language models and what SPLADE makes of their logits."""

from pathlib import Path

from safetensors.torch import save_file

from .catalogue import model
from .encoders import modernbert_config, modernbert_tokenizer
from .files import write_json
from .layout import bert_config, roberta_config, write_modules
from .texts import FEW, TEXTS
from .vocabularies import (
    BERT_SPECIALS, ROBERTA_SPECIALS, roberta_tokenizer, write_bert_tokenizer, write_tokenizer,
)  # fmt: skip
from .weights import noise, write_weights


@model(
    "splade-mlm", "splade-v3", "max over tokens of log(1 + relu(logit))",
    "masked-LM head: dense, activation, norm, decoder tied to the embeddings with a bias; expected {token id: "
    "weight}",
    runner="sparse_encoder",
)  # fmt: skip
def splade(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 38)
    config = bert_config(22, 2, 2, 41, vocabulary, 38, architectures=["BertForMaskedLM"])
    write_json(folder / "config.json", config)

    def few_weights(model) -> None:
        model.cls.predictions.bias.sub_(2.0)

    write_weights(folder, "AutoModelForMaskedLM", adjust=few_weights)
    package = "sentence_transformers.sparse_encoder.models."
    write_modules(folder, [(package + "MLMTransformer", ""), (package + "SpladePooling", "1_SpladePooling")])
    pooling = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": None}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 38, "do_lower_case": False})
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )
    return [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


def write_new_splade(folder: Path, length: int, strategy: str, activation: str) -> None:
    """The files of sentence-transformers since version 6."""
    modules = "sentence_transformers."
    write_modules(
        folder,
        [
            (modules + "base.modules.transformer.Transformer", ""),
            (modules + "sparse_encoder.modules.splade_pooling.SpladePooling", "1_SpladePooling"),
        ],
    )
    pooling = {"pooling_strategy": strategy, "activation_function": activation, "embedding_dimension": None}
    write_json(folder / "1_SpladePooling" / "config.json", pooling)
    output = {"text": {"method": "forward", "method_output_name": "logits"}}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "fill-mask", "modality_config": output, "module_output_name": "token_embeddings",
            "max_seq_length": length,
        },
    )  # fmt: skip
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )


@model(
    "splade-distilbert", "opensearch-neural-sparse-encoding-v1", "sum over tokens of log(1 + relu(logit))",
    "head vocab_transform, vocab_layer_norm, vocab_projector; activation relu; files of sentence-transformers 6",
    runner="sparse_encoder",
)  # fmt: skip
def splade_distilbert(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 33, kind="DistilBertTokenizer")
    config = dict(
        activation="relu", architectures=["DistilBertForMaskedLM"], attention_dropout=0.1, dim=20, dropout=0.1,
        hidden_dim=27, initializer_range=0.02, max_position_embeddings=36, model_type="distilbert", n_heads=4,
        n_layers=2, pad_token_id=0, sinusoidal_pos_embds=False, tie_weights_=True, torch_dtype="float32",
        transformers_version="4.49.0", vocab_size=vocabulary + 1,
    )  # fmt: skip
    write_json(folder / "config.json", config)

    def few_weights(model) -> None:
        model.vocab_projector.bias.sub_(2.0)

    write_weights(folder, "AutoModelForMaskedLM", adjust=few_weights)
    write_new_splade(folder, 33, "sum", "relu")
    return [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


@model(
    "splade-roberta", "granite-embedding-30m-sparse", "max over tokens of log(1 + log(1 + relu(logit)))",
    "head lm_head.dense, layer_norm, decoder tied to the embeddings; always gelu; layers have relu",
    runner="sparse_encoder",
)  # fmt: skip
def splade_roberta(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, roberta_tokenizer(), "RobertaTokenizer", ROBERTA_SPECIALS, 512, add_prefix_space=False
    )
    config = roberta_config(
        18, 3, 2, 23, vocabulary, 40, architectures=["RobertaForMaskedLM"], hidden_act="relu"
    )
    write_json(folder / "config.json", config)

    def few_weights(model) -> None:
        model.lm_head.bias.sub_(1.0)

    write_weights(folder, "AutoModelForMaskedLM", adjust=few_weights)
    write_new_splade(folder, 36, "max", "log1p_relu")
    return [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


def lower_bias(*path: str, by: float = 2.0):
    """Takes something from the bias of the last layer, so that few tokens have a weight."""

    def adjust(model) -> None:
        for part in path:
            model = getattr(model, part)
        model.sub_(by)

    return adjust


CASES = [dict(name="plain", texts=TEXTS), dict(name="max_length 8", texts=FEW, max_length=8)]


@model(
    "splade-electra", "an ELECTRA trained as SPLADE", "max over tokens of log(1 + relu(logit))",
    "head generator_predictions, which narrows to embedding_size; generator_lm_head; always gelu; layers have relu",
    runner="sparse_encoder",
)  # fmt: skip
def splade_electra(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, kind="ElectraTokenizer")
    config = bert_config(
        20, 4, 2, 31, vocabulary + 2, 39, model_type="electra", architectures=["ElectraForMaskedLM"], hidden_act="relu",
        embedding_size=13, layer_norm_eps=1e-3, summary_activation="gelu", summary_type="first", summary_use_proj=True,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("generator_lm_head", "bias"))
    write_new_splade(folder, 39, "max", "relu")
    return CASES


@model(
    "splade-albert", "an ALBERT trained as SPLADE", "max over tokens of log(1 + relu(logit))",
    "head predictions, which narrows to embedding_size and has the activation of the layers", runner="sparse_encoder",
)  # fmt: skip
def splade_albert(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder)
    config = bert_config(
        21, 3, 2, 30, vocabulary + 1, 39, model_type="albert", architectures=["AlbertForMaskedLM"], embedding_size=14,
        hidden_act="gelu_new", num_hidden_groups=1, inner_group_num=1, classifier_dropout_prob=0.1, use_cache=None,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("predictions", "bias"))
    write_new_splade(folder, 37, "max", "relu")
    return CASES


@model(
    "splade-mpnet", "an MPNet trained as SPLADE", "sum over tokens of log(1 + log(1 + relu(logit)))",
    "head lm_head.dense, layer_norm, decoder; always gelu; layers have silu; decoder and bias of its own "
    "(tie_word_embeddings false) beside a bias that nobody reads", runner="sparse_encoder",
)  # fmt: skip
def splade_mpnet(folder: Path) -> list:
    vocabulary = write_tokenizer(
        folder, roberta_tokenizer(), "RobertaTokenizer", ROBERTA_SPECIALS, 512, add_prefix_space=False
    )
    config = roberta_config(
        18, 3, 2, 23, vocabulary, 40, model_type="mpnet", architectures=["MPNetForMaskedLM"], hidden_act="silu",
        relative_attention_num_buckets=32, type_vocab_size=None, position_embedding_type=None, use_cache=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("lm_head", "decoder", "bias"))
    write_new_splade(folder, 36, "sum", "log1p_relu")
    return CASES


@model(
    "splade-deberta", "a DeBERTa trained as SPLADE", "max over tokens of log(1 + relu(logit))",
    "the older head (legacy), under BERT's names, with the activation of the layers", runner="sparse_encoder",
)  # fmt: skip
def splade_deberta(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder)
    config = bert_config(
        20, 4, 2, 29, vocabulary + 1, 40, model_type="deberta-v2", architectures=["DebertaV2ForMaskedLM"],
        hidden_act="relu", layer_norm_eps=1e-7, relative_attention=True, position_buckets=8, max_relative_positions=-1,
        norm_rel_ebd="layer_norm", share_att_key=True, pos_att_type=["p2c", "c2p"], position_biased_input=False,
        type_vocab_size=0, legacy=True, position_embedding_type=None, use_cache=None,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("cls", "predictions", "decoder", "bias", by=0.5))
    write_new_splade(folder, 40, "max", "relu")
    return CASES


@model(
    "splade-gte", "opensearch-neural-sparse-encoding-doc-v3-gte in the layout of transformers 5",
    "max over tokens of log(1 + log(1 + relu(logit)))", "head lm_head.dense, norm, decoder; always gelu",
    runner="sparse_encoder",
)  # fmt: skip
def splade_gte(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder)
    config = bert_config(
        24, 3, 2, 31, vocabulary, 48, model_type="gte", architectures=["GteForMaskedLM"], rope_theta=10000.0,
        position_embedding_type=None, use_cache=None, type_vocab_size=1,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("lm_head", "decoder", "bias"))
    write_new_splade(folder, 40, "max", "log1p_relu")
    return CASES


@model(
    "splade-modernbert", "a ModernBERT trained as SPLADE", "max over tokens of log(1 + relu(logit))",
    "head.dense and norm without biases, decoder with one; classifier_activation differs from the layers'",
    runner="sparse_encoder",
)  # fmt: skip
def splade_modernbert(folder: Path) -> list:
    tokenizer = modernbert_tokenizer()
    vocabulary = write_tokenizer(folder, tokenizer, "PreTrainedTokenizerFast", BERT_SPECIALS, 44)
    config = modernbert_config(
        20, 2, 3, 26, vocabulary, 14, tokenizer.token_to_id, architectures=["ModernBertForMaskedLM"],
        classifier_activation="relu", norm_eps=1e-3,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("decoder", "bias"))
    write_new_splade(folder, 44, "max", "relu")
    return CASES


@model(
    "splade-router", "opensearch-neural-sparse-encoding-doc-v3-distill",
    "documents: max over tokens of log(1 + log(1 + relu(logit)))",
    "modules.json has a Router; documents take a masked language model in the directory itself, queries a table of "
    "weights", runner="sparse_documents",
)  # fmt: skip
def splade_router(folder: Path) -> list:
    vocabulary = write_bert_tokenizer(folder, 33, kind="DistilBertTokenizer")
    config = dict(
        activation="gelu", architectures=["DistilBertForMaskedLM"], attention_dropout=0.1, dim=20, dropout=0.1,
        hidden_dim=27, initializer_range=0.02, max_position_embeddings=36, model_type="distilbert", n_heads=4,
        n_layers=2, pad_token_id=0, sinusoidal_pos_embds=False, tie_weights_=True, torch_dtype="float32",
        transformers_version="4.49.0", vocab_size=vocabulary,
    )  # fmt: skip
    write_json(folder / "config.json", config)
    write_weights(folder, "AutoModelForMaskedLM", adjust=lower_bias("vocab_projector", "bias"))
    write_new_splade(folder, 33, "max", "log1p_relu")
    (folder / "1_SpladePooling").rename(folder / "document_1_SpladePooling")
    write_modules(folder, [("sentence_transformers.models.Router", "")])
    package = "sentence_transformers.sparse_encoder.models."
    table, pooling = "query_0_SparseStaticEmbedding", "document_1_SpladePooling"
    write_json(
        folder / "router_config.json",
        {
            "types": {
                table: package + "SparseStaticEmbedding", "": package + "MLMTransformer",
                pooling: package + "SpladePooling",
            },
            "structure": {"query": [table], "document": ["", pooling]},
            "parameters": {"default_route": "document", "allow_empty_key": True},
        },
    )  # fmt: skip
    (folder / table).mkdir()
    write_bert_tokenizer(folder / table, 33, kind="DistilBertTokenizer")
    write_json(folder / table / "config.json", {"frozen": True})
    weights = noise((vocabulary,), folder.name, "idf").abs()
    save_file({"weight": weights}, folder / table / "model.safetensors", {"format": "pt"})
    prompts = {"query": "", "document": ""}
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": prompts, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )
    return CASES
