//! The house rule: imports go downward only. Reads the `use` lines and paths of every source file.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by layer, lowest first.
const LAYERS: [&[&str]; 5] = [
    &["error", "config", "exchange", "pipe", "files", "flow", "store", "telemetry", "translate"],
    &["access", "accounts", "admission", "openai", "site", "turns"],
    &["browser"],
    &["http"],
    &["cli", "demo", "doctor", "health", "progress", "specs", "status"],
];

fn layer_of(module: &str) -> usize {
    LAYERS.iter().position(|it| it.contains(&module)).unwrap_or_else(|| panic!("{module} has no layer"))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn imports_go_downward_and_chromiumoxide_is_known_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20);
    for path in files {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let module = name.split(['/', '.']).next().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{name} does not say why it exists");
        if !name.starts_with("browser/link/") {
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            assert!(!code.into_iter().any(|it| it.contains("chromiumoxide")), "{name} knows chromiumoxide");
        }
        let used = text.split("crate::").skip(1).filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
            let word = &rest[..end];
            word.starts_with(char::is_lowercase).then_some(word)
        });
        for other in used.filter(|it| *it != module) {
            match module {
                "lib" | "main" | "cli" | "demo" | "doctor" | "health" | "progress" | "specs" | "status" => {}
                "practice" => {
                    panic!("{name} imports crate::{other}: the practice site imports nothing of ours")
                }
                "browser" if other == "site" => {}
                _ => assert!(
                    layer_of(other) < layer_of(module) || layer_of(module) == 0 && layer_of(other) == 0,
                    "{name} imports crate::{other}, which is not below it"
                ),
            }
        }
    }
}
