//! Which class of transformers a directory's tokenizer is of, as `AutoTokenizer` decides it.
//!
//! The class decides more than its name says: some take nothing from `tokenizer.json` but the vocabulary, and build the
//! rest anew.

use serde_json::{Map, Value};

/// A class, as far as it matters how it treats the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Takes `tokenizer.json` as it is.
    AsItIs,
    Albert,
    Bert,
    Camembert,
    DebertaV2,
    Gemma,
    Llama,
    Mpnet,
    Qwen2,
    Roberta,
    T5,
    XlmRoberta,
}

/// The classes that are built anew here, with all their names.
const REBUILT: [(Class, &str); 11] = [
    (Class::Albert, "AlbertTokenizer"),
    (
        Class::Bert,
        "BertTokenizer DistilBertTokenizer ElectraTokenizer LayoutLMTokenizer LxmertTokenizer MobileBertTokenizer \
         SqueezeBertTokenizer",
    ),
    (Class::Camembert, "CamembertTokenizer"),
    (Class::DebertaV2, "DebertaV2Tokenizer"),
    (Class::Gemma, "GemmaTokenizer"),
    (Class::Llama, "LlamaTokenizer"),
    (Class::Mpnet, "MPNetTokenizer"),
    (Class::Qwen2, "Qwen2Tokenizer"),
    (Class::Roberta, "BartTokenizer LEDTokenizer LongformerTokenizer MvpTokenizer RobertaTokenizer"),
    (Class::T5, "T5Tokenizer"),
    (Class::XlmRoberta, "XLMRobertaTokenizer"),
];

/// Classes of transformers that do not take `tokenizer.json` as it is either, and are not built here. A name that is in
/// neither list is unknown there too, and the file counts.
const OTHERS: &str = "BarthezTokenizer BigBirdTokenizer BlenderbotTokenizer CLIPTokenizer CodeGenTokenizer \
    CodeLlamaTokenizer CohereTokenizer DPRContextEncoderTokenizer DPRQuestionEncoderTokenizer DPRReaderTokenizer \
    DebertaTokenizer EsmcTokenizer FunnelTokenizer GPT2Tokenizer GPTNeoXTokenizer HerbertTokenizer LasrTokenizer \
    LayoutLMv2Tokenizer LayoutLMv3Tokenizer LayoutXLMTokenizer LukeTokenizer MBart50Tokenizer MBartTokenizer \
    MLukeTokenizer MarkupLMTokenizer NllbTokenizer NougatTokenizer OpenAIGPTTokenizer PegasusTokenizer \
    Qwen3_5Tokenizer ReformerTokenizer RemBertTokenizer RoFormerTokenizer SeamlessM4TTokenizer Siglip2Tokenizer \
    SplinterTokenizer Tipsv2Tokenizer UdopTokenizer VideoPrismTokenizer WhisperTokenizer XGLMTokenizer XLNetTokenizer \
    BartphoTokenizer BertGenerationTokenizer BertJapaneseTokenizer BertweetTokenizer BioGptTokenizer \
    BlenderbotSmallTokenizer ByT5Tokenizer CTRLTokenizer CanineTokenizer ClvpTokenizer CpmAntTokenizer CpmTokenizer \
    DiaTokenizer EsmTokenizer FSMTTokenizer FastSpeech2ConformerTokenizer FlaubertTokenizer GPTNeoXJapaneseTokenizer \
    GPTSw3Tokenizer M2M100Tokenizer MarianTokenizer MgpstrTokenizer MyT5Tokenizer PLBartTokenizer PerceiverTokenizer \
    PhobertTokenizer Pop2PianoTokenizer ProphetNetTokenizer RagTokenizer RoCBertTokenizer SiglipTokenizer \
    Speech2TextTokenizer SpeechT5Tokenizer TapasTokenizer VitsTokenizer Wav2Vec2CTCTokenizer \
    Wav2Vec2PhonemeCTCTokenizer XLMTokenizer";

/// The class that is registered for a `model_type`, of those that a model here can have.
fn registered(model_type: &str) -> Option<&'static str> {
    Some(match model_type {
        "albert" => "AlbertTokenizer",
        "bert" | "distilbert" | "electra" | "nomic_bert" => "BertTokenizer",
        "camembert" => "CamembertTokenizer",
        "deberta-v2" => "DebertaV2Tokenizer",
        "gemma3_text" => "GemmaTokenizer",
        "gte" | "jina_embeddings_v3" | "xlm-roberta" => "XLMRobertaTokenizer",
        "mistral" | "modernbert" => GENERIC,
        "mpnet" => "MPNetTokenizer",
        "qwen2" | "qwen3" => "Qwen2Tokenizer",
        "roberta" => "RobertaTokenizer",
        "t5" | "mt5" => "T5Tokenizer",
        _ => return None,
    })
}

/// The class that takes any `tokenizer.json`.
const GENERIC: &str = "TokenizersBackend";

/// The `model_type`s whose registered class counts, whatever their files say.
const OWN_CLASS: [&str; 2] = ["modernbert", "qwen2"];

/// The class of a directory, or the name of one that is not known here.
///
/// `byte_level` is whether `tokenizer.json` speaks of bytes.
pub(super) fn of(
    config: &Map<String, Value>,
    tokenizer_config: &Map<String, Value>,
    byte_level: bool,
) -> Result<Class, String> {
    let text = |map: &Map<String, Value>, key: &str| {
        map.get(key).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let model_type = text(config, "model_type").unwrap_or_default();
    let declared = text(tokenizer_config, "tokenizer_class").or_else(|| text(config, "tokenizer_class"));
    let registered = registered(&model_type);
    let own_code = tokenizer_config.get("auto_map").is_some_and(names_a_tokenizer);
    let Some(declared) = declared else {
        return match registered {
            Some(name) => by_name(name),
            None if own_code => Err("auto_map".to_owned()),
            None => Ok(Class::AsItIs),
        };
    };
    let name = declared.strip_suffix("Fast").unwrap_or(&declared);
    if own_code {
        return by_name(name);
    }
    if name == "LlamaTokenizer" && byte_level && model_type != "mistral" && !OWN_CLASS.contains(&model_type.as_str()) {
        return Ok(Class::AsItIs);
    }
    match registered {
        Some(GENERIC) => Ok(Class::AsItIs),
        Some(registered) if OWN_CLASS.contains(&model_type.as_str()) => by_name(registered),
        _ => by_name(name),
    }
}

fn by_name(name: &str) -> Result<Class, String> {
    let is_among = |names: &str| names.split_whitespace().any(|known| known == name);
    match REBUILT.iter().find(|(_, names)| is_among(names)) {
        Some((class, _)) => Ok(*class),
        None if is_among(OTHERS) => Err(format!("the class {name}")),
        None => Ok(Class::AsItIs),
    }
}

fn names_a_tokenizer(auto_map: &Value) -> bool {
    match auto_map {
        Value::Array(_) => true,
        Value::Object(map) => map.get("AutoTokenizer").is_some_and(|code| !code.is_null()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(config: &Value, tokenizer_config: &Value, expected: Result<Class, &str>) {
        let map = |value: &Value| value.as_object().unwrap().clone();
        let found = of(&map(config), &map(tokenizer_config), true);
        assert_eq!(found, expected.map_err(str::to_owned), "{config} {tokenizer_config}");
    }

    #[test]
    fn the_class_is_the_one_that_is_named_or_else_the_one_of_the_model_type() {
        check(&json!({"model_type": "bert"}), &json!({}), Ok(Class::Bert));
        check(
            &json!({"model_type": "bert"}),
            &json!({"tokenizer_class": "XLMRobertaTokenizer"}),
            Ok(Class::XlmRoberta),
        );
        check(&json!({"model_type": "bert", "tokenizer_class": "MPNetTokenizerFast"}), &json!({}), Ok(Class::Mpnet));
        check(
            &json!({"model_type": "bert"}),
            &json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
            Ok(Class::AsItIs),
        );
        check(&json!({"model_type": "roberta"}), &json!({"tokenizer_class": "NeverHeardOf"}), Ok(Class::AsItIs));
        check(&json!({"model_type": "llama"}), &json!({}), Ok(Class::AsItIs));
        check(
            &json!({"model_type": "new"}),
            &json!({"tokenizer_class": "XLMRobertaTokenizerFast"}),
            Ok(Class::XlmRoberta),
        );
    }

    #[test]
    fn some_model_types_have_a_class_of_their_own_whatever_is_named() {
        check(
            &json!({"model_type": "qwen2"}),
            &json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
            Ok(Class::Qwen2),
        );
        check(
            &json!({"model_type": "qwen3"}),
            &json!({"tokenizer_class": "PreTrainedTokenizerFast"}),
            Ok(Class::AsItIs),
        );
        check(&json!({"model_type": "modernbert"}), &json!({"tokenizer_class": "BertTokenizer"}), Ok(Class::AsItIs));
        check(&json!({"model_type": "mistral"}), &json!({"tokenizer_class": "LlamaTokenizer"}), Ok(Class::AsItIs));
        check(&json!({"model_type": "llama"}), &json!({"tokenizer_class": "LlamaTokenizer"}), Ok(Class::AsItIs));
    }

    #[test]
    fn a_class_that_would_be_built_otherwise_is_refused_by_name() {
        let phobert = json!({"tokenizer_class": "PhobertTokenizer"});
        check(&json!({"model_type": "roberta"}), &phobert, Err("the class PhobertTokenizer"));
        let code = json!({"AutoTokenizer": ["tokenizer.Own", null]});
        check(&json!({"model_type": "llama"}), &json!({"auto_map": code}), Err("auto_map"));
    }
}
