//! The map in `src/ARCHITECTURE.md` against the code: each room uses the rooms of its row alone, no import leads round in
//! a circle from room to room, and within a room no circle has more than three files.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise, in helpers too")]

#[path = "architecture/imports.rs"]
mod imports;
#[path = "architecture/source.rs"]
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use imports::{Import, Tree, circles};

/// Most files in a circle of imports within a room.
const LARGEST_CIRCLE: usize = 3;

/// Rooms that use others without a word in their rows. Here and below an entry that is no longer true fails as well.
const USES_TO_MEND: &[(&str, &str)] = &[("cli", "domain"), ("commands", "cli"), ("main", "cli")];

/// Rooms that lead round to each other.
const ROOM_CIRCLES_TO_MEND: &[&[&str]] = &[];

/// Rooms with a circle of too many files, and how many.
const FILE_CIRCLES_TO_MEND: &[(&str, usize)] =
    &[("commands", 8), ("output", 4), ("output", 5), ("output", 7), ("pipeline", 7)];

/// The rows of the table: each room, and those that it may use.
struct Map {
    rooms: BTreeMap<String, BTreeSet<String>>,
}

impl Map {
    fn read(page: &str) -> Self {
        let names = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
        let mut rooms = BTreeMap::new();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').collect();
            let above: BTreeSet<String> = rooms.keys().cloned().collect();
            let may_use = if cells[2].contains("all") { above } else { names(cells[2]).into_iter().collect() };
            for room in names(cells[1]) {
                assert!(rooms.insert(room.clone(), may_use.clone()).is_none(), "{room} has two rows");
            }
        }
        Self { rooms }
    }

    /// The room that a module is in: that of the longest name. None is the crate's root, which only names the rooms.
    fn room(&self, module: &[String]) -> Option<&str> {
        let name = |length: usize| module[..length].join("::");
        let room = (1..=module.len()).rev().find_map(|length| self.rooms.get_key_value(&name(length)));
        room.map(|(room, _)| room.as_str())
    }

    /// A room may use itself, what is inside of it, and what its row says with all that is inside.
    fn allows(&self, from: &str, to: &str) -> bool {
        let is_in = |room: &str| to == room || to.strip_prefix(room).is_some_and(|rest| rest.starts_with("::"));
        is_in(from) || self.rooms[from].iter().any(|room| is_in(room))
    }

    /// Rooms without a row, and rows without a room.
    fn missing(&self, tree: &Tree) -> Vec<String> {
        let modules: BTreeSet<String> = tree.modules().map(|module| module.join("::")).collect();
        let without_row = tree.modules().filter(|module| module.len() == 1 && self.room(module).is_none());
        let without_room = self.rooms.iter().flat_map(|(room, uses)| uses.iter().chain([room]));
        let without_row = without_row.map(|module| format!("`{}` has no row", module[0]));
        let without_room =
            without_room.filter(|room| !modules.contains(*room)).map(|room| format!("there is no `{room}`"));
        without_row.chain(without_room).collect()
    }

    fn rooms_of(&self, import: &Import) -> Option<(&str, &str)> {
        Some((self.room(&import.from)?, self.room(&import.to)?))
    }
}

fn read() -> (Map, Tree) {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let page = fs::read_to_string(src.join("ARCHITECTURE.md")).unwrap();
    (Map::read(&page), Tree::read(&src))
}

#[test]
fn every_room_has_its_row_and_every_row_its_room() {
    let (map, tree) = read();
    assert_eq!(map.missing(&tree), Vec::<String>::new());
}

#[test]
fn rooms_use_only_what_their_rows_say() {
    let (map, tree) = read();
    let mut found: BTreeMap<(&str, &str), String> = BTreeMap::new();
    let imports = tree.imports();
    for import in &imports {
        let Some((from, to)) = map.rooms_of(import) else { continue };
        if !map.allows(from, to) {
            let line = found.entry((from, to)).or_default();
            let [file, other] = [&import.from, &import.to].map(|module| tree.file(module));
            writeln!(line, "src/{file}:{}: {from} imports {to} (src/{other})", import.line).unwrap();
        }
    }
    let unknown: String =
        found.iter().filter(|(uses, _)| !USES_TO_MEND.contains(uses)).map(|(_, line)| line.as_str()).collect();
    assert!(unknown.is_empty(), "not in the table of src/ARCHITECTURE.md:\n{unknown}");
    let mended: Vec<_> = USES_TO_MEND.iter().filter(|uses| !found.contains_key(uses)).collect();
    assert!(mended.is_empty(), "mended, so take them out of USES_TO_MEND: {mended:?}");
}

#[test]
fn no_import_leads_round_from_room_to_room() {
    let (map, tree) = read();
    let imports = tree.imports();
    let found = circles(imports.iter().filter_map(|import| map.rooms_of(import)).filter(|(from, to)| from != to));
    assert_eq!(found, ROOM_CIRCLES_TO_MEND, "left: rooms that use each other; right: those that are known");
}

#[test]
fn circles_within_a_room_are_small() {
    let (map, tree) = read();
    let imports = tree.imports();
    let mut edges: BTreeMap<&str, Vec<(&str, &str)>> = BTreeMap::new();
    for import in imports.iter().filter(|import| import.is_used) {
        if let Some((from, to)) = map.rooms_of(import)
            && from == to
        {
            edges.entry(from).or_default().push((tree.file(&import.from), tree.file(&import.to)));
        }
    }
    let mut faults = String::new();
    let mut large = Vec::new();
    for (room, edges) in edges {
        for circle in circles(edges).into_iter().filter(|circle| circle.len() > LARGEST_CIRCLE) {
            let known = FILE_CIRCLES_TO_MEND.contains(&(room, circle.len()));
            large.push((room, circle.len()));
            if !known {
                writeln!(faults, "{room}, {} files: {}", circle.len(), circle.join(", ")).unwrap();
            }
        }
    }
    assert!(faults.is_empty(), "files that import each other:\n{faults}");
    let mended: Vec<_> = FILE_CIRCLES_TO_MEND.iter().filter(|circle| !large.contains(circle)).collect();
    assert!(mended.is_empty(), "mended, so take them out of FILE_CIRCLES_TO_MEND: {mended:?}");
}

/// The functions above on a made-up table, for that of the page passes.
#[test]
fn a_table_that_is_not_true_is_noticed() {
    let map = Map::read(
        "| room | may use | what |\n|---|---|---|\n| `a` | – | |\n| `a::b` | `a` | |\n| `c` | `a` | |\n| `d`, `e` | all of the above | |\n",
    );
    let path = |name: &str| name.split("::").map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(map.room(&path("a::b::x")), Some("a::b"));
    assert_eq!(map.room(&path("a::x")), Some("a"));
    assert_eq!(map.room(&path("f")), None);
    assert!(map.allows("a", "a::b") && map.allows("c", "a::b") && map.allows("a::b", "a") && map.allows("e", "c"));
    assert!(!map.allows("a", "c") && !map.allows("c", "d") && !map.allows("d", "e"));
}
