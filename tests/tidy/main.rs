//! The house rules that a compiler does not check: who may use whom, how long things are, what lies where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::Visit;

/// A file longer than this is two files (ARCHITECTURE.md); tests do not count.
const FILE_LINES: usize = 800;
/// A function longer than this is two functions.
const FUNCTION_LINES: usize = 70;

/// Who may use whom. An arrow that is not here is not allowed.
const ARROWS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("abi", &["base"]),
    ("sip", &["base"]),
    ("media", &["base"]),
    ("worker", &["abi", "base", "media", "sip"]),
    ("driver", &["abi", "base", "media", "sip", "worker"]),
    ("control-core", &["abi", "base"]),
    ("control-server", &["abi", "base", "control-core"]),
    ("softphone", &["base", "media", "sip"]),
    (
        "jackfield",
        &["abi", "base", "control-server", "driver", "media", "sip", "softphone", "worker"],
    ),
];

/// Crates that do no I/O; each has a clippy.toml that says so.
const PURE: &[&str] = &[
    "dataplane/base",
    "dataplane/sip",
    "dataplane/media",
    "dataplane/worker",
    "control/core",
    "tools/softphone",
];

/// The only crates with unsafe code.
const UNSAFE: &[&str] = &["dataplane/abi", "dataplane/driver"];

const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "bench",
    "control",
    "dataplane",
    "tests",
    "tools",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// Every file of that ending that git tracks or would track.
fn sources(ending: &str) -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let files: Vec<PathBuf> = names
        .lines()
        .filter(|name| name.ends_with(ending))
        .map(|name| root().join(name))
        .filter(|path| path.exists())
        .collect();
    assert!(!files.is_empty(), "no file ends with {ending}");
    files
}

#[test]
fn crates_use_only_what_the_design_allows() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let names: BTreeSet<&str> =
        packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a package has a name");
        let Some(arrows) = allowed.get(name) else {
            assert!(name.starts_with("house-"), "{name} is new: say in ARROWS whom it may use");
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let to = dependency["name"].as_str().expect("a dependency has a name");
            let in_tests_only = dependency["kind"] == "dev";
            if names.contains(to) && !in_tests_only && !arrows.contains(&to) {
                wrong.push(format!("{name} -> {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that the design does not have: {wrong:?}");
}

#[test]
fn pure_crates_are_kept_pure_by_clippy() {
    for folder in PURE {
        let path = root().join(folder).join("clippy.toml");
        let rules =
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        for banned in [
            "std::net::UdpSocket",
            "std::time::Instant",
            "std::time::SystemTime",
            "std::thread::sleep",
        ] {
            assert!(rules.contains(banned), "{} does not ban {banned}", path.display());
        }
    }
}

#[test]
fn unsafe_code_lies_in_two_crates() {
    for path in sources(".rs") {
        let name =
            path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        if UNSAFE.iter().any(|folder| name.starts_with(folder)) || name.starts_with("tests/tidy") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        assert!(!text.contains("allow(unsafe_code)"), "{name} allows unsafe code");
    }
}

struct Long<'a> {
    file: &'a str,
    found: Vec<String>,
}

impl Long<'_> {
    fn look(&mut self, name: &syn::Ident, whole: Span) {
        let lines = whole.end().line - whole.start().line + 1;
        if lines > FUNCTION_LINES {
            self.found.push(format!("{} {name}: {lines} lines", self.file));
        }
    }
}

impl<'ast> Visit<'ast> for Long<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.look(&item.sig.ident, item.block.span());
        syn::visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.look(&item.sig.ident, item.block.span());
        syn::visit::visit_impl_item_fn(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|inner| inner == "test")
    })
}

/// Lines of a file without its test module at the end.
fn lines_without_tests(text: &str) -> usize {
    text.split("#[cfg(test)]\nmod ").next().unwrap_or(text).lines().count()
}

#[test]
fn files_and_functions_are_short() {
    let mut long = Vec::new();
    for path in sources(".rs") {
        let name =
            path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        let is_test =
            name.starts_with("tests/") || name.contains("/tests/") || name.ends_with("/tests.rs");
        if is_test {
            continue;
        }
        let text = fs::read_to_string(&path).expect("readable");
        let lines = lines_without_tests(&text);
        if lines > FILE_LINES {
            long.push(format!("{name}: {lines} lines"));
        }
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut functions = Long { file: &name, found: Vec::new() };
        functions.visit_file(&parsed);
        long.extend(functions.found);
    }
    assert!(long.is_empty(), "too long:\n{}", long.join("\n"));
}

#[test]
fn nothing_else_lies_at_the_top() {
    let output =
        Command::new("git").args(["ls-files"]).current_dir(root()).output().expect("git runs");
    let names = String::from_utf8(output.stdout).expect("UTF-8");
    for name in names.lines() {
        let top = name.split('/').next().unwrap_or(name);
        assert!(
            top.starts_with('.') || TOP_LEVEL.contains(&top),
            "{top} has no place at the top level"
        );
    }
}

#[test]
fn nothing_is_left_unfinished() {
    let marks = [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["FIX", "ME"].concat()];
    for path in sources(".rs") {
        let text = fs::read_to_string(&path).expect("readable");
        for mark in &marks {
            assert!(!text.contains(mark.as_str()), "{} holds {mark}", path.display());
        }
    }
}
