//! The gate of the documents: every file, test, name, link and command that a Markdown file of the repository
//! names exists. It reads links, code spans and the commands of `sh` and `console` blocks.
//!
//! | part | what |
//! | --- | --- |
//! | [`markdown`] | links, code spans, commands and headings of a document, with their lines |
//! | [`tree`] | the files of the repository, the words in its sources, its recipes and packages |
//! | [`commands`] | one command line against cargo's packages, `just`'s recipes and `--help` of our binaries |
//!
//! A code span that has no form of ours (a type, a value, somebody else's flag) is not judged.

mod commands;
mod markdown;
mod tree;

use crate::Result;
use commands::Commands;
use markdown::{Document, Item};
use std::path::{Path, PathBuf};
use tree::Tree;

/// What to read.
#[derive(clap::Args)]
pub struct Options {
    /// The folder of the repository.
    #[arg(long, default_value = ".")]
    root: PathBuf,
}

/// A name of this many words is a test's or a function's, not a metric's or a field's.
const WORDS_OF_A_TEST: usize = 6;
/// How a metric's name ends, of however many words.
const UNITS: &[&str] = &["total", "seconds", "bytes"];
/// Extensions of files that a document names without their folder.
const EXTENSIONS: &[&str] = &["rs", "md", "toml"];
/// Folders that commands make.
const GENERATED: &[&str] = &["target", "dist", "data"];
/// Names of other projects that have a form of ours.
const FOREIGN: &[&str] = &[
    "check_integrity",            // redb
    "tests/crash_consistency.rs", // redb
    "compiler_builtins",          // Rust
    "STRIMZI_NAMESPACE",          // Strimzi
];

/// Prints a line for each name that does not exist; an error if there is one. `chores` are the names of ours.
pub fn run(options: &Options, chores: &[String]) -> Result<()> {
    let tree = Tree::read(&options.root)?;
    let commands = Commands::read(&tree, chores)?;
    let (mut names, mut findings, mut documents) = (0, 0, 0);
    for path in tree.files().filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let document = Document::parse(&tree.text(path)?);
        documents += 1;
        for (line, item) in &document.items {
            names += 1;
            if let Some(problem) = problem(item, path, &tree, &commands)? {
                findings += 1;
                println!("{}:{line}: {problem}", path.display());
            }
        }
    }
    let looked_at = format!("{names} names and commands in {documents} documents");
    if findings == 0 {
        println!("docs: {looked_at} exist");
        Ok(())
    } else {
        Err(format!("{findings} of {looked_at} do not exist: correct the document, or what it names"))
    }
}

/// What is wrong with one item of the document at this path.
fn problem(item: &Item, document: &Path, tree: &Tree, commands: &Commands) -> Result<Option<String>> {
    match item {
        Item::Link(target) => link(target, document, tree),
        Item::Command(line) => commands.problem(line),
        Item::Code(code) if code.contains(' ') => commands.problem(code),
        Item::Code(code) => Ok(name(code, document, tree)),
    }
}

fn link(target: &str, document: &Path, tree: &Tree) -> Result<Option<String>> {
    if target.contains("://") || target.starts_with("mailto:") {
        return Ok(None);
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let file = if file.is_empty() { document.to_owned() } else { tree::resolve(document, file) };
    if !tree.exists(&file) {
        return Ok(Some(format!("links to {target}: there is no {}", file.display())));
    }
    if anchor.is_empty() || Document::parse(&tree.text(&file)?).anchors.iter().any(|known| known == anchor) {
        return Ok(None);
    }
    Ok(Some(format!("links to {target}: {} has no heading #{anchor}", file.display())))
}

/// Judges a code span without spaces by its form: a path, a file name, or an identifier.
fn name(code: &str, document: &Path, tree: &Tree) -> Option<String> {
    let code = code.trim_end_matches("()").trim_end_matches('/');
    let code = code.strip_prefix("./").unwrap_or(code);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    if code.is_empty() || code.starts_with('/') || FOREIGN.contains(&code) || !code.chars().all(plain) {
        return None;
    }
    let extension = code.rsplit_once('.').map(|(_, extension)| extension);
    let known_extension = extension.is_some_and(|extension| EXTENSIONS.contains(&extension));
    if let Some((first, _)) = code.split_once('/') {
        if GENERATED.contains(&first) || !(known_extension || tree.exists(Path::new(first))) {
            return None;
        }
        let beside = tree::resolve(document, code);
        let there = tree.exists(Path::new(code)) || tree.exists(&beside) || tree.ends_with(code);
        return (!there).then(|| format!("names {code}: there is no such file or folder"));
    }
    if known_extension {
        return (!tree.ends_with(code)).then(|| format!("names {code}: there is no such file"));
    }
    let words: Vec<&str> = code.split('_').collect();
    let identifier = words.len() > 1
        && words.iter().all(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric()));
    if !identifier || code.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let is_metric = words.last().is_some_and(|last| UNITS.contains(last));
    if words.len() >= WORDS_OF_A_TEST && !is_metric && !code.contains(|c: char| c.is_ascii_uppercase()) {
        return (!tree.has_function(code))
            .then(|| format!("names {code}: there is no such test or function"));
    }
    (!tree.has_word(code)).then(|| format!("names {code}: no source has this word"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    /// A repository with one document and something to name.
    fn findings(document: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for (path, text) in [
            ("docs/page.md", document),
            ("docs/other.md", "# A heading, with `code`\n"),
            (
                "src/lib.rs",
                "#[test]\nfn what_was_answered_survives_a_kill() { max_queued_changes(\"LOG_LEVEL\") }\n",
            ),
            ("tests/it.rs", "fn main() {}\n"),
            ("examples/demo.rs", "fn main() {}\n"),
            ("justfile", "run *args:\n    cargo run\n"),
            ("Cargo.toml", "[package]\nname = \"probe\"\nedition = \"2024\"\n[workspace]\n"),
        ] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert!(Command::new("git").args(["init", "-q"]).current_dir(root).status().unwrap().success());
        let tree = Tree::read(root).unwrap();
        let commands = Commands::read(&tree, &[]).unwrap();
        let page = Path::new("docs/page.md");
        let items = Document::parse(&tree.text(page).unwrap()).items;
        let found = items.iter().filter_map(|(line, item)| {
            problem(item, page, &tree, &commands).unwrap().map(|problem| format!("{line}: {problem}"))
        });
        found.collect()
    }

    #[test]
    fn what_exists_is_accepted() {
        let document = "\
See [other](other.md#a-heading-with-code), [lib](../src/lib.rs) and [this](#see).

# See

`what_was_answered_survives_a_kill` in `src/lib.rs` and `lib.rs`, below `src`; `LOG_LEVEL`, `max_queued_changes`,
`/etc/passwd`, `a/b`, `target/kafka`, `Some::thing`, `{topic}/claim`, `grep -r x`, [web](https://example.org#x).
`cargo test what_was_answered`, `cargo
test --test it`, `just run --fast`.

```sh
RUST_LOG=debug cargo run -p probe --example demo -- --any   # runs it
cd src && cargo +nightly test --test it \\
    --package probe
```
";
        assert_eq!(findings(document), Vec::<String>::new());
    }

    #[test]
    fn each_planted_error_is_found_with_its_line() {
        for (planted, found) in [
            ("[x](nowhere.md)", "there is no docs/nowhere.md"),
            ("[x](other.md#elsewhere)", "docs/other.md has no heading #elsewhere"),
            ("[x](#elsewhere)", "docs/page.md has no heading #elsewhere"),
            ("<img src=\"picture.svg\">", "there is no docs/picture.svg"),
            ("`what_was_answered_survives_a_crash`", "there is no such test or function"),
            ("`LOG_LEVELS`", "no source has this word"),
            ("`max_queued`", "no source has this word"),
            ("`src/main.rs`", "there is no such file or folder"),
            ("`src/missing`", "there is no such file or folder"),
            ("`gone.rs`", "there is no such file"),
            ("`just walk`", "the justfile has no recipe walk"),
            ("`cargo test no_such_test`", "no function's name contains no_such_test"),
            ("`cargo test -p nobody`", "there is no package nobody"),
            ("`cargo test --test gone`", "no package has a test gone"),
            ("`cargo run --example gone`", "no package has an example gone"),
            ("`cargo xtask gone`", "there is no chore gone"),
            ("`src/run.sh --all`", "there is no src/run.sh"),
            ("`bash src/run.sh`", "there is no src/run.sh"),
            ("```sh\ntrue | just walk\n```", "the justfile has no recipe walk"),
            ("```console\n$ just walk\noutput\n```", "the justfile has no recipe walk"),
        ] {
            let line = if planted.contains('\n') { 3 } else { 2 };
            let all = findings(&format!("# Page\n{planted}\n"));
            assert!(
                all.len() == 1 && all[0].starts_with(&format!("{line}: ")) && all[0].contains(found),
                "{planted}: {all:?}"
            );
        }
    }
}
