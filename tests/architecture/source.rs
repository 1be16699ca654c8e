//! What a source file declares and names, read from its text. Comments, strings and what is compiled for tests alone
//! do not count.

use std::collections::{BTreeMap, BTreeSet};

/// A word, `::` or a single character, with its line.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// One name that a `use` brings in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Use {
    pub(crate) path: Vec<String>,
    /// The name that it has here; `*` for all of a module's.
    pub(crate) name: String,
    pub(crate) public: bool,
    pub(crate) line: usize,
}

/// A module: what its file, or its braces, hold.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    /// Modules in files of their own.
    pub(crate) children: BTreeSet<String>,
    pub(crate) items: BTreeSet<String>,
    pub(crate) uses: Vec<Use>,
    /// Paths of two names and more outside of `use`, with their lines.
    pub(crate) paths: Vec<(Vec<String>, usize)>,
    /// Every word outside of `use`.
    pub(crate) words: BTreeSet<String>,
}

/// The modules of a file, by their path below it: the file itself has an empty one.
pub(crate) fn scopes(source: &str) -> BTreeMap<Vec<String>, Scope> {
    let tokens = tokens(source);
    let text = |at: usize| tokens.get(at).map_or("", |token: &Token| token.text);
    let mut scopes = BTreeMap::from([(Vec::new(), Scope::default())]);
    // Modules in braces, with the depth of the brace.
    let (mut inline, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while at < tokens.len() {
        let path: Vec<String> = inline.iter().map(|(name, _)| name.clone()).collect();
        let scope = scopes.entry(path).or_default();
        let line = tokens[at].line;
        match text(at) {
            "#" if text(at + 1) == "[" => {
                let end = closing(&tokens, at + 1);
                at = if is_for_tests(&tokens[at..end]) { end_of_item(&tokens, end) } else { end };
                continue;
            }
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.pop_if(|(_, opened)| *opened == depth);
            }
            "mod" if text(at + 2) == ";" => {
                scope.children.insert(text(at + 1).to_owned());
                at += 2;
            }
            "mod" if text(at + 2) == "{" => {
                inline.push((text(at + 1).to_owned(), depth));
                depth += 1;
                at += 2;
            }
            "use" if text(at + 1) != "<" => {
                let length = tokens[at..].iter().position(|token| token.text == ";").unwrap_or(tokens.len() - at);
                let public = at > 0 && ["pub", ")"].contains(&text(at - 1));
                let mut found = Vec::new();
                use_tree(&tokens[at + 1..at + length], &[], &mut found);
                scope.uses.extend(found.into_iter().map(|(path, name)| Use { path, name, public, line }));
                at += length;
            }
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" if is_word(text(at + 1)) => {
                scope.items.insert(text(at + 1).to_owned());
            }
            word if is_word(word) => {
                scope.words.insert(word.to_owned());
                let mut path = vec![word.to_owned()];
                while text(at + 1) == "::" && is_word(text(at + 2)) {
                    path.push(text(at + 2).to_owned());
                    at += 2;
                }
                if path.len() > 1 {
                    scope.paths.push((path, line));
                }
            }
            _ => {}
        }
        at += 1;
    }
    scopes
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Whether an attribute takes what follows out of every build but that of tests.
fn is_for_tests(attribute: &[Token]) -> bool {
    let has = |word: &str| attribute.iter().any(|token| token.text == word);
    has("cfg") && has("test") && !has("not")
}

/// Behind the bracket that closes the one at a place.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// Behind the item, field or statement that begins at a place, more attributes of it included.
fn end_of_item(tokens: &[Token], start: usize) -> usize {
    let mut at = start;
    let (mut is_import, mut is_item) = (false, false);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "(" | "[" => at = closing(tokens, at),
            "{" => {
                at = closing(tokens, at);
                if !is_import {
                    return at;
                }
            }
            // The end of what it is in.
            "}" | ")" | "]" => return at,
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            word => {
                is_import |= word == "use";
                is_item |=
                    ["use", "fn", "mod", "struct", "enum", "trait", "impl", "const", "static", "type"].contains(&word);
                at += 1;
            }
        }
    }
    at
}

/// The full paths in a `use`, each with the name that it has from then on.
fn use_tree(tokens: &[Token], prefix: &[String], found: &mut Vec<(Vec<String>, String)>) {
    let mut path = prefix.to_vec();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        match token.text {
            "{" => {
                let inside = &tokens[at + 1..closing(tokens, at) - 1];
                for branch in split_at_commas(inside) {
                    use_tree(branch, &path, found);
                }
                return;
            }
            "*" => {
                found.push((path, "*".to_owned()));
                return;
            }
            "as" => break,
            "self" if !path.is_empty() => {}
            word if is_word(word) => path.push(word.to_owned()),
            _ => {}
        }
        at += 1;
    }
    if let Some(last) = path.last() {
        let name = tokens.get(at + 1).map_or(last.clone(), |token| token.text.to_owned());
        found.push((path, name));
    }
}

fn split_at_commas<'a, 'b>(tokens: &'a [Token<'b>]) -> Vec<&'a [Token<'b>]> {
    let mut depth = 0;
    let is_comma = |token: &Token| {
        depth += i32::from(token.text == "{") - i32::from(token.text == "}");
        depth == 0 && token.text == ","
    };
    tokens.split(is_comma).filter(|branch| !branch.is_empty()).collect()
}

fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = source[at..].chars().next() {
        let rest = &source[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if let Some(length) = length_of_nothing(rest) {
            length
        } else if word > 0 {
            if is_word(&rest[..word]) {
                tokens.push(Token { text: &rest[..word], line });
            }
            word
        } else {
            let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
            if !first.is_whitespace() {
                tokens.push(Token { text: &rest[..length], line });
            }
            length
        };
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

/// How long the comment, string, character or lifetime is that a text begins with.
fn length_of_nothing(rest: &str) -> Option<usize> {
    let to = |end: &str, from: usize| rest[from..].find(end).map_or(rest.len(), |length| from + length + end.len());
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        let (mut depth, mut at) = (1, 2);
        while depth > 0 && at < rest.len() {
            let step = &rest.as_bytes()[at..];
            let change = i32::from(step.starts_with(b"/*")) - i32::from(step.starts_with(b"*/"));
            depth += change;
            at += if change == 0 { 1 } else { 2 };
        }
        return Some(at);
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix).unwrap_or_default();
        after.starts_with('"') || prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"')
    });
    if let Some(prefix) = prefix {
        let start = prefix.len();
        if prefix.ends_with('r') {
            let hashes = rest[start..].find('"').unwrap_or_default();
            return Some(to(&format!("\"{}", "#".repeat(hashes)), start + hashes + 1));
        }
        return Some(end_of_escaped(rest, '"', start + 1));
    }
    let quoted = rest.strip_prefix("b'").or(rest.strip_prefix('\''))?;
    let start = rest.len() - quoted.len();
    let mut characters = quoted.chars();
    match (characters.next()?, characters.next()) {
        ('\\', _) => Some(end_of_escaped(rest, '\'', start)),
        (character, Some('\'')) => Some(start + character.len_utf8() + 1),
        // A lifetime.
        _ => Some(start + quoted.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(quoted.len())),
    }
}

fn end_of_escaped(rest: &str, quote: char, start: usize) -> usize {
    let mut escaped = false;
    for (at, character) in rest[start..].char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => return start + at + 1,
            _ => {}
        }
    }
    rest.len()
}

#[track_caller]
fn check_uses(source: &str, expected: &[&str]) {
    let found = scopes(source);
    let uses = found.values().flat_map(|scope| &scope.uses);
    let uses: Vec<String> = uses.map(|used| format!("{} as {}", used.path.join("::"), used.name)).collect();
    assert_eq!(uses, expected);
}

#[test]
fn every_branch_of_a_use_is_found() {
    check_uses("use crate::a;", &["crate::a as a"]);
    check_uses(
        "pub(crate) use super::b::{self, C, d::{E, f as G}};",
        &["super::b as b", "super::b::C as C", "super::b::d::E as E", "super::b::d::f as G"],
    );
    check_uses("fn a() { use crate::b::*; }", &["crate::b as *"]);
    check_uses("fn a(b: impl Sized + use<'_>) { b }", &[]);
}

#[test]
fn comments_strings_and_tests_do_not_count() {
    check_uses("/// use crate::a;\n// use crate::b;\n/* use crate::c; /* */ use crate::d; */", &[]);
    check_uses("const A: &str = \"\\\" use crate::a;\"; const B: &str = r#\"\" use crate::b;\"#;", &[]);
    check_uses(
        "const A: char = '\"'; use crate::a; const B: char = '\\''; fn c<'a>(_: &'a str) {}",
        &["crate::a as a"],
    );
    check_uses("#[cfg(test)]\n#[allow(unused)]\nmod tests { use crate::a; }\nuse crate::b;", &["crate::b as b"]);
    check_uses("#[cfg(test)]\nuse crate::a::{B, C};\nuse crate::d;", &["crate::d as d"]);
    check_uses("#[cfg(not(test))]\nuse crate::a;", &["crate::a as a"]);
    let found = scopes("struct A { #[cfg(test)] b: crate::b::B, c: crate::c::C }\n#[cfg(test)] mod tests;\nmod d;");
    assert_eq!(found[&vec![]].paths, [(["crate", "c", "C"].map(str::to_owned).to_vec(), 1)]);
    assert_eq!(found[&vec![]].children, BTreeSet::from(["d".to_owned()]));
}

#[test]
fn paths_know_their_line_and_the_module_in_braces_that_they_are_in() {
    let found =
        scopes("fn a() {\n  super::b::c(Vec::<u8>::new());\n}\nmod d {\n  type E = super::F;\n}\nfn g() { h::i() }");
    let paths = |module: &[&str]| -> Vec<(String, usize)> {
        let scope = &found[&module.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()];
        scope.paths.iter().map(|(path, line)| (path.join("::"), *line)).collect()
    };
    assert_eq!(paths(&[]), [("super::b::c".to_owned(), 2), ("h::i".to_owned(), 7)]);
    assert_eq!(paths(&["d"]), [("super::F".to_owned(), 5)]);
}
