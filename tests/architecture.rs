//! Holds the imports of the product against the tables of docs/ARCHITECTURE.md,
//! which are the only place where layers and homes are written down.
//!
//! Every module of `src` is parsed, the tests in it left out. A module may use
//! what lies in a lower layer; what lies beside or above it only where the
//! document lists that, with a reason; and a foreign crate only where it is at
//! home.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

#[path = "support/markdown.rs"]
#[expect(dead_code, reason = "tests/docs.rs uses the rest")]
mod markdown;

use markdown::{code_spans, rows_below};

const DOCUMENT: &str = "docs/ARCHITECTURE.md";

#[test]
fn imports_go_down_only() {
    let document = document();
    let layers = layers(&document);
    let listed = exceptions(&document);
    let mut used = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for Use { file, from, path } in product() {
        let Some(to) = own_module(&path).filter(|to| *to != from && layers.contains_key(*to)) else {
            continue;
        };
        if layers[to] < layers[from.as_str()] {
            continue;
        }
        let pair = (from.clone(), to.to_owned());
        if listed.contains(&pair) {
            used.insert(pair);
        } else {
            wrong.insert(format!("{file}: `{from}` may not use `{to}`"));
        }
    }
    assert!(wrong.is_empty(), "against the layer table of {DOCUMENT}:\n{}", join(&wrong));
    let stale: BTreeSet<_> = listed.difference(&used).map(|(a, b)| format!("`{a}` → `{b}`")).collect();
    assert!(stale.is_empty(), "{DOCUMENT} allows what nobody does:\n{}", join(&stale));
}

#[test]
fn every_module_has_its_layer() {
    let document = document();
    let in_table: BTreeSet<_> = layers(&document).into_keys().collect();
    let library = parse(&root().join("src/lib.rs"));
    let mut modules = BTreeSet::from(["main".to_owned()]);
    modules.extend(library.items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    }));
    assert_eq!(in_table, modules);
}

#[test]
fn foreign_crates_have_one_home() {
    let document = document();
    let homes = homes(&document);
    let mut seen = BTreeSet::new();
    let mut wrong = BTreeSet::new();
    for Use { file, path, .. } in product() {
        for (foreign, homes) in &homes {
            if !path.starts_with(foreign) {
                continue;
            }
            match homes.iter().find(|home| at_home(&file, home)) {
                Some(home) => drop(seen.insert((foreign.clone(), home.clone()))),
                None => drop(wrong.insert(format!("{file}: `{}` is not at home here", foreign.join("::")))),
            }
        }
    }
    assert!(wrong.is_empty(), "against the table of homes in {DOCUMENT}:\n{}", join(&wrong));
    for (foreign, homes) in homes {
        for home in homes {
            let foreign = foreign.clone();
            assert!(seen.contains(&(foreign.clone(), home.clone())), "{foreign:?} is not used in {home}");
        }
    }
}

/// Reasons become statuses in one file, so that no text of another can reach a
/// caller.
#[test]
fn statuses_are_made_in_one_file() {
    let makes = |path: &[String]| {
        matches!(path, [.., status, constructor]
        if status == "Status" && constructor.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let over_grpc = |file: &str| file.starts_with("src/grpc") && file != "src/grpc/status.rs";
    let wrong: BTreeSet<_> =
        product().into_iter().filter(|u| over_grpc(&u.file) && makes(&u.path)).map(|u| u.file).collect();
    assert!(wrong.is_empty(), "a status is made outside src/grpc/status.rs:\n{}", join(&wrong));
}

#[test]
fn every_source_file_belongs_to_the_product() {
    let mut files = BTreeSet::new();
    let mut directories = vec![root().join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.extension() {
                _ if path.is_dir() => directories.push(path),
                Some(extension) if extension == "rs" => drop(files.insert(relative(&path))),
                _ => {}
            }
        }
    }
    let mut known = BTreeSet::new();
    for top in ["lib", "main"] {
        walk(&root().join(format!("src/{top}.rs")), &root().join("src"), &[], true, &mut |file, _, _| {
            known.insert(relative(file));
        });
    }
    assert_eq!(files, known, "a file that no `mod` names is not compiled");
}

/// A path written somewhere in the product, from the root of its crate.
struct Use {
    file: String,
    /// The top module it is written in.
    from: String,
    path: Vec<String>,
}

/// Every path in `src`, tests left out.
fn product() -> Vec<Use> {
    let mut uses = Vec::new();
    for top in ["lib", "main"] {
        walk(
            &root().join(format!("src/{top}.rs")),
            &root().join("src"),
            &[],
            false,
            &mut |file, module, ast| {
                let from = module.first().map_or(top, String::as_str).to_owned();
                let mut paths = Paths { module: module.to_vec(), found: Vec::new() };
                paths.visit_file(ast);
                let file = relative(file);
                uses.extend(paths.found.into_iter().map(|path| Use {
                    file: file.clone(),
                    from: from.clone(),
                    path,
                }));
            },
        );
    }
    assert!(uses.len() > 1000, "the product was not found");
    uses
}

/// Goes through a file and those its `mod` lines name; `directory` is where
/// these are.
fn walk(
    file: &Path,
    directory: &Path,
    module: &[String],
    with_tests: bool,
    found: &mut impl FnMut(&Path, &[String], &syn::File),
) {
    let ast = parse(file);
    found(file, module, &ast);
    for item in &ast.items {
        let syn::Item::Mod(child) = item else { continue };
        if child.content.is_some() || (!with_tests && is_test(&child.attrs)) {
            continue;
        }
        let name = child.ident.to_string();
        let below = directory.join(&name);
        let beside = directory.join(format!("{name}.rs"));
        let file = if beside.exists() { beside } else { below.join("mod.rs") };
        let module: Vec<_> = module.iter().cloned().chain([name]).collect();
        walk(&file, &below, &module, with_tests, found);
    }
}

/// Collects paths: of `use` lines, in code, and in the arguments of macros.
struct Paths {
    module: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Paths {
    fn add(&mut self, segments: &[String]) {
        let Some(first) = segments.first() else { return };
        let own = |rest: &[String]| [&["crate".to_owned()], rest].concat();
        let path = match first.as_str() {
            "crate" | "obo_vault" => own(&segments[1..]),
            "self" => own(&[&self.module[..], &segments[1..]].concat()),
            "super" => {
                let up = segments.iter().take_while(|s| *s == "super").count();
                let module = &self.module[..self.module.len().saturating_sub(up)];
                own(&[module, &segments[up..]].concat())
            }
            _ => segments.to_vec(),
        };
        self.found.push(path);
    }

    fn add_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.add_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.add(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.add(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.add(before),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(tree, before)),
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes: &[syn::Attribute] = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &[],
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.add_tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&segments);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        let text = call.tokens.to_string().replace(" :: ", "::");
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
        for word in words.filter(|word| word.contains("::")) {
            let segments: Vec<_> =
                word.split("::").filter(|s| !s.is_empty()).map(|s| s.trim_matches(':').to_owned()).collect();
            self.add(&segments);
        }
        visit::visit_macro(self, call);
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|condition| condition.is_ident("test"))
    })
}

fn own_module(path: &[String]) -> Option<&str> {
    match path {
        [krate, module, ..] if krate == "crate" => Some(module),
        _ => None,
    }
}

/// A home is a file or, with a slash at the end, a directory and the file
/// beside it.
fn at_home(file: &str, home: &str) -> bool {
    match home.strip_suffix('/') {
        Some(directory) => file.starts_with(home) || file == format!("{directory}.rs"),
        None => file == home,
    }
}

fn document() -> String {
    fs::read_to_string(root().join(DOCUMENT)).unwrap()
}

fn layers(document: &str) -> BTreeMap<String, u32> {
    let mut layers = BTreeMap::new();
    for row in rows_below(document, "## Layers") {
        let layer = row[0].parse().unwrap_or_else(|_| panic!("no number of a layer: {row:?}"));
        for module in code_spans(&row[1]) {
            assert_eq!(layers.insert(module.clone(), layer), None, "`{module}` has two layers");
        }
    }
    layers
}

fn exceptions(document: &str) -> BTreeSet<(String, String)> {
    let mut listed = BTreeSet::new();
    for row in rows_below(document, "### Sideways, and why") {
        let from = code_spans(&row[0]).remove(0);
        listed.extend(code_spans(&row[1]).into_iter().map(|to| (from.clone(), to)));
        assert!(!row[2].is_empty(), "no reason for {row:?}");
    }
    listed
}

fn homes(document: &str) -> BTreeMap<Vec<String>, Vec<String>> {
    let rows = rows_below(document, "### Foreign crates have one home");
    let homes = rows.into_iter().flat_map(|row| {
        let homes = code_spans(&row[1]);
        let foreign = code_spans(&row[0]);
        foreign.into_iter().map(move |f| (f.split("::").map(str::to_owned).collect(), homes.clone()))
    });
    homes.collect()
}

fn parse(file: &Path) -> syn::File {
    let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}

fn join(lines: &BTreeSet<String>) -> String {
    lines.iter().map(|line| format!("  {line}\n")).collect()
}
