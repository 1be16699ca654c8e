//! Which prompt goes before a text.

use std::collections::BTreeMap;

/// What the user asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PromptChoice {
    /// Nothing: the model's prompt for documents, if it has one.
    #[default]
    Default,
    /// One of the model's prompts.
    Named(String),
    /// This very text; empty means none.
    Text(String),
}

/// The prompt that is used, and why. An empty text means that there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Prompt {
    /// What goes before every text.
    pub text: String,
    /// Where it comes from.
    pub origin: PromptOrigin,
}

/// Where a prompt comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PromptOrigin {
    /// The model has none that applies.
    #[default]
    Nothing,
    /// The model's prompt of this name, because nothing was asked for.
    Model(String),
    /// The model's prompt of this name, because it was asked for.
    Asked(String),
    /// The user's own text.
    Text,
}

/// Names of prompts for documents, the first of which applies when nothing was asked for.
///
/// Only prompts that the directory holds count. sentence-transformers 6.2 gives every model an empty `document` prompt
/// first, so that its `encode_document` uses neither `passage` nor `corpus` nor the default of a model without one.
const DOCUMENT_PROMPTS: [&str; 3] = ["document", "passage", "corpus"];

/// The prompt that applies; `Err` holds a name that is not in `prompts`.
pub(super) fn choose<'a>(
    choice: &'a PromptChoice,
    prompts: &BTreeMap<String, String>,
    default_prompt_name: Option<&'a str>,
) -> Result<Prompt, &'a str> {
    match choice {
        PromptChoice::Text(text) => Ok(Prompt { text: text.clone(), origin: PromptOrigin::Text }),
        PromptChoice::Named(name) => match prompts.get(name) {
            Some(text) => Ok(Prompt { text: text.clone(), origin: PromptOrigin::Asked(name.clone()) }),
            None => Err(name),
        },
        PromptChoice::Default => {
            let found =
                DOCUMENT_PROMPTS.into_iter().chain(default_prompt_name).find_map(|name| prompts.get_key_value(name));
            Ok(found.map_or(Prompt { text: String::new(), origin: PromptOrigin::Nothing }, |(name, text)| Prompt {
                text: text.clone(),
                origin: PromptOrigin::Model(name.clone()),
            }))
        }
    }
}
