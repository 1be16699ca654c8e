//! Who imports from whom, file by file, and the circles in that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::source::{Scope, scopes};

/// How this crate is called in its binary.
const CRATE: &str = "embed_collections";

/// More renamings than any import goes through.
const MOST_STEPS: usize = 16;

type ModulePath = Vec<String>;

/// The modules of a crate, those for tests left out.
#[derive(Default)]
pub(crate) struct Tree {
    modules: BTreeMap<ModulePath, Module>,
}

struct Module {
    file: String,
    scope: Scope,
}

/// One file names something of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) from: ModulePath,
    pub(crate) line: usize,
    pub(crate) to: ModulePath,
    /// Whether the code of the file needs it. Names that are passed on, and modules as such, make no circle.
    pub(crate) is_used: bool,
}

/// What a path leads to: an item, in the module that defines it, or a module.
struct Target {
    module: ModulePath,
    is_item: bool,
}

impl Tree {
    /// The library and the binary below `src`; the latter is a module named `main`.
    pub(crate) fn read(src: &Path) -> Self {
        let mut tree = Self::default();
        let read = |file: &str| fs::read_to_string(src.join(file)).ok();
        tree.add(&read, &[], "lib.rs");
        tree.add(&read, &["main".to_owned()], "main.rs");
        tree
    }

    /// The module in a file, and those that it declares.
    fn add(&mut self, read: &impl Fn(&str) -> Option<String>, module: &[String], file: &str) {
        let source = read(file).unwrap_or_else(|| panic!("there is no {file}"));
        for (below, scope) in scopes(&source) {
            let module = [module, &below].concat();
            for child in scope.children.clone() {
                let path = [&module[..], &[child]].concat();
                let [named, in_folder] = [format!("{}.rs", path.join("/")), format!("{}/mod.rs", path.join("/"))];
                let file = if read(&named).is_some() { named } else { in_folder };
                self.add(read, &path, &file);
            }
            self.modules.insert(module, Module { file: file.to_owned(), scope });
        }
    }

    pub(crate) fn modules(&self) -> impl Iterator<Item = &ModulePath> {
        self.modules.keys()
    }

    pub(crate) fn file(&self, module: &[String]) -> &str {
        &self.modules[module].file
    }

    /// Every import of something of this crate, those within a file left out.
    pub(crate) fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (from, Module { file, scope }) in &self.modules {
            let used = scope.uses.iter().map(|it| (&it.path, it.line, !it.public || scope.words.contains(&it.name)));
            let named = scope.paths.iter().map(|(path, line)| (path, *line, true));
            for (path, line, is_used) in used.chain(named) {
                let Some(Target { module: to, is_item }) = self.resolve(from, path, 0) else { continue };
                if self.modules[&to].file != *file {
                    imports.push(Import { from: from.clone(), line, to, is_used: is_used && is_item });
                }
            }
        }
        imports.sort();
        imports.dedup();
        imports
    }

    /// Follows a path through modules and whatever they re-export to the module that defines the last name; none if it
    /// leads out of the crate. A name that no `use` and no module has is taken for an item of the module reached.
    fn resolve(&self, from: &[String], path: &[String], steps: usize) -> Option<Target> {
        if steps > MOST_STEPS {
            return None;
        }
        let (mut module, mut rest) = match path[0].as_str() {
            "crate" | CRATE => (Vec::new(), &path[1..]),
            "self" => (from.to_vec(), &path[1..]),
            "super" => (from[..from.len() - 1].to_vec(), &path[1..]),
            name => {
                let Module { scope, .. } = &self.modules[from];
                let is_local = scope.uses.iter().any(|used| used.name == name && used.path[0] != name);
                let is_child = self.modules.contains_key(&[from, &[name.to_owned()]].concat());
                if !is_local && !is_child {
                    return None;
                }
                (from.to_vec(), path)
            }
        };
        loop {
            let Some((name, behind)) = rest.split_first() else { return Some(Target { module, is_item: false }) };
            let child = [&module[..], std::slice::from_ref(name)].concat();
            let is_module = self.modules.contains_key(&child);
            let Module { scope, .. } = &self.modules[&module];
            if name == "super" {
                module.pop();
            } else if let Some(used) = scope.uses.iter().find(|used| used.name == *name)
                && (!is_module || behind.is_empty())
            {
                return self.resolve(&module, &[&used.path[..], behind].concat(), steps + 1);
            } else if is_module {
                module = child;
            } else if let Some(there) = self.through_globs(&module, name, steps) {
                return Some(there);
            } else {
                return Some(Target { module, is_item: true });
            }
            rest = behind;
        }
    }

    /// The item of a name that a module does not define and takes from `use a::*`.
    fn through_globs(&self, module: &[String], name: &str, steps: usize) -> Option<Target> {
        let Module { scope, .. } = &self.modules[module];
        if scope.items.contains(name) {
            return None;
        }
        scope.uses.iter().filter(|used| used.name == "*").find_map(|used| {
            let there = self.resolve(module, &used.path, steps + 1)?.module;
            let Module { scope, .. } = &self.modules[&there];
            let has = scope.items.contains(name) || scope.uses.iter().any(|used| used.name == name);
            has.then(|| self.resolve(&there, &["self".to_owned(), name.to_owned()], steps + 1)).flatten()
        })
    }
}

/// The largest groups in which everything leads to everything else, groups of one left out.
pub(crate) fn circles<'a>(edges: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Vec<&'a str>> {
    let mut next: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges {
        next.entry(from).or_default().insert(to);
    }
    let reach = |start: &'a str| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(at) = open.pop() {
            open.extend(next.get(at).into_iter().flatten().copied().filter(|to| seen.insert(*to)));
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|start| (*start, reach(start))).collect();
    let leads = |from: &str, to: &str| reached.get(from).is_some_and(|seen| seen.contains(to));
    let group = |start: &&'a str| -> Vec<&'a str> {
        reached[*start].iter().copied().filter(|other| leads(other, start)).collect()
    };
    let groups: BTreeSet<Vec<&str>> = next.keys().map(group).filter(|group| group.len() > 1).collect();
    groups.into_iter().collect()
}

/// A crate of made-up files, by name and text.
#[track_caller]
fn check_imports(files: &[(&str, &str)], expected: &[&str]) {
    let mut tree = Tree::default();
    let read = |file: &str| files.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned());
    tree.add(&read, &[], "lib.rs");
    let imports = tree.imports();
    let line = |import: &Import| {
        let how = if import.is_used { "" } else { ", unused" };
        format!("{}:{} > {}{how}", tree.file(&import.from), import.line, tree.file(&import.to))
    };
    assert_eq!(imports.iter().map(line).collect::<Vec<_>>(), expected);
}

#[test]
fn an_import_leads_to_the_file_that_defines_the_name() {
    let a = ("a/mod.rs", "mod inner;\npub mod other;\npub use inner::{Thing, Gone as Renamed};\npub struct Own;");
    let inner = ("a/inner.rs", "pub struct Thing;\npub struct Gone;");
    let other = ("a/other.rs", "use super::Own;\npub fn f(_: Own) {}");
    let reexports = ["a/mod.rs:3 > a/inner.rs, unused", "a/other.rs:1 > a/mod.rs"];
    let check = |b: &str, expected: &[&str]| {
        let files = [("lib.rs", "mod a;\nmod b;"), a, inner, other, ("b.rs", b)];
        check_imports(&files, &[&reexports[..], expected].concat());
    };
    check("use crate::a::Thing;", &["b.rs:1 > a/inner.rs"]);
    check("use crate::a::{Own, Renamed};", &["b.rs:1 > a/mod.rs", "b.rs:1 > a/inner.rs"]);
    check(
        "use super::a;\nfn f() { a::other::f(a::Own) }",
        &["b.rs:1 > a/mod.rs, unused", "b.rs:2 > a/mod.rs", "b.rs:2 > a/other.rs"],
    );
    check(
        "use crate::a::*;\nfn f(_: self::Thing, _: std::fs::File) {}",
        &["b.rs:1 > a/mod.rs, unused", "b.rs:2 > a/inner.rs"],
    );
    check("use std::fs;\nfn f() { fs::read(\"\"); }", &[]);
}

#[test]
fn a_name_that_is_passed_on_makes_a_circle_only_where_it_is_used_too() {
    let child = ("a/child.rs", "use super::Own;\npub struct Thing(Own);");
    let passed_on = "mod child;\npub use child::Thing;\npub struct Own;";
    let used = "mod child;\npub use child::Thing;\npub struct Own;\nfn f(_: Thing) {}";
    check_imports(
        &[("lib.rs", "mod a;"), ("a/mod.rs", passed_on), child],
        &["a/mod.rs:2 > a/child.rs, unused", "a/child.rs:1 > a/mod.rs"],
    );
    check_imports(
        &[("lib.rs", "mod a;"), ("a/mod.rs", used), child],
        &["a/mod.rs:2 > a/child.rs", "a/child.rs:1 > a/mod.rs"],
    );
}

#[test]
fn circles_are_found_whole_and_without_what_only_leads_to_them() {
    assert_eq!(circles([("a", "b"), ("b", "c")]), Vec::<Vec<&str>>::new());
    let two = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d"), ("x", "a"), ("d", "y")];
    assert_eq!(circles(two), [vec!["a", "b", "c"], vec!["d", "e"]]);
}
