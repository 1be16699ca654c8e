//! `router_config.json`: models in which queries and documents take different ways to their vectors.
//!
//! Of sparse models the way of queries is often a mere table of weights. What this program reads are documents: it
//! takes their way, as `encode_document` of sentence-transformers does, and leaves the other alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::SpecError;
use super::files::{Module, read_json};

/// The way that documents take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The file that tells of it.
    pub path: PathBuf,
    /// What it is called there.
    pub document: String,
    /// What that of queries is called, where it is another one.
    pub query: Option<String>,
}

/// The file. Its `types` say of which class each module is, by the directory that it is in.
#[derive(Deserialize)]
struct Config {
    types: BTreeMap<String, String>,
    /// The modules of each route, in their order.
    structure: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    default_route: Option<String>,
    /// Routes by task and modality, a pair as Python writes it.
    route_mappings: Option<BTreeMap<String, String>>,
}

/// Reads the file of the router that is in a directory: the route and its modules, whose paths begin with `prefix`.
pub(super) fn read(directory: &Path, prefix: &str) -> Result<(Route, Vec<Module>), SpecError> {
    let path = directory.join("router_config.json");
    // What the class was once called kept it elsewhere.
    let (path, config) = if let Some(config) = read_json::<Config>(&path)? {
        (path, config)
    } else {
        let older = directory.join("config.json");
        let what = "it says which way documents take through the model";
        let config = read_json::<Config>(&older)?.ok_or(SpecError::Missing { path, what })?;
        (older, config)
    };
    let known = || config.structure.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    // Where a model has no route for the task, it is asked without one.
    let Some(document) = config.route(Some("document")).or_else(|| config.route(None)) else {
        let what = format!("a model without a route for documents (it has {}) or a default_route", known());
        return Err(SpecError::unsupported(&path, what));
    };
    let Some(ids) = config.structure.get(document) else {
        let what = format!("its route {document:?} is not one of its structure ({})", known());
        return Err(SpecError::invalid(&path, what));
    };
    let module = |id: &String| match config.types.get(id) {
        Some(class) => Ok(Module { path: joined(prefix, id), class: class.clone() }),
        None => Err(SpecError::invalid(&path, format!("its types do not say what {id:?} is"))),
    };
    let modules = ids.iter().map(module).collect::<Result<_, _>>()?;
    let query = config.route(Some("query")).filter(|query| *query != document).map(str::to_owned);
    Ok((Route { document: document.to_owned(), query, path }, modules))
}

impl Config {
    /// The route of texts under a task, found as the reference library finds it.
    fn route(&self, task: Option<&str>) -> Option<&str> {
        let mappings = self.parameters.route_mappings.as_ref();
        let mapped = |task: Option<&str>, modality: Option<&str>| {
            let [task, modality] =
                [task, modality].map(|name| name.map_or("None".to_owned(), |name| format!("'{name}'")));
            mappings?.get(&format!("({task}, {modality})")).map(String::as_str)
        };
        let own = |name: &str| self.structure.get_key_value(name).map(|(name, _)| name.as_str());
        mapped(task, Some("text"))
            .or_else(|| mapped(task, None))
            .or_else(|| mapped(None, Some("text")))
            .or_else(|| mapped(None, None))
            .or_else(|| task.and_then(own))
            .or_else(|| own("text"))
            .or_else(|| if task.is_none() { self.default_route() } else { None })
    }

    fn default_route(&self) -> Option<&str> {
        let only = || (self.structure.len() == 1).then(|| self.structure.keys().next())?;
        self.parameters.default_route.as_ref().or_else(only).map(String::as_str)
    }
}

fn joined(prefix: &str, id: &str) -> String {
    [prefix, id].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}
