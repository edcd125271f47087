//! The files of the repository and the words in its sources.

use crate::Result;
use crate::cargo;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// The repository as a document may name it.
pub struct Tree {
    /// Its folder.
    pub root: PathBuf,
    files: BTreeSet<PathBuf>,
    folders: BTreeSet<PathBuf>,
    words: BTreeSet<String>,
    functions: BTreeSet<String>,
}

impl Tree {
    /// Reads the files that git tracks or would track.
    pub fn read(root: &Path) -> Result<Self> {
        let mut git = Command::new("git");
        git.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
        let list = cargo::output(&mut git)?;
        // A file that was deleted and not yet committed is in the list.
        let files: BTreeSet<PathBuf> =
            list.lines().map(PathBuf::from).filter(|path| root.join(path).exists()).collect();
        let folders = files.iter().flat_map(|path| path.ancestors().skip(1)).map(Path::to_owned).collect();
        let mut tree = Self {
            root: root.to_owned(),
            files,
            folders,
            words: BTreeSet::new(),
            functions: BTreeSet::new(),
        };
        for path in
            tree.files.iter().filter(|path| path.extension().is_none_or(|extension| extension != "md"))
        {
            // What is not text has no names.
            let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
            let mut before = "";
            for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
                if before == "fn" {
                    tree.functions.insert(word.to_owned());
                }
                if word.contains('_') {
                    tree.words.insert(word.to_owned());
                }
                before = word;
            }
        }
        Ok(tree)
    }

    /// All files, by their paths from the root.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(PathBuf::as_path)
    }

    /// The text of a file.
    pub fn text(&self, path: &Path) -> Result<String> {
        fs::read_to_string(self.root.join(path))
            .map_err(|error| format!("{} cannot be read: {error}", path.display()))
    }

    /// Whether there is such a file or folder.
    pub fn exists(&self, path: &Path) -> bool {
        self.files.contains(path) || self.folders.contains(path)
    }

    /// Whether the path of some file ends with these names.
    pub fn ends_with(&self, names: &str) -> bool {
        self.files.iter().any(|path| path.ends_with(names))
    }

    /// Whether a source has this identifier; only those with an underscore are known.
    pub fn has_word(&self, word: &str) -> bool {
        self.words.contains(word)
    }

    /// Whether a source defines a function of this name.
    pub fn has_function(&self, name: &str) -> bool {
        self.functions.contains(name)
    }

    /// Whether the name of some function contains this, as the filter of `cargo test` is meant.
    pub fn has_function_like(&self, part: &str) -> bool {
        self.functions.iter().any(|name| name.contains(part))
    }
}

/// The path from the root of what a document names by a path from its own folder.
pub fn resolve(document: &Path, named: &str) -> PathBuf {
    let mut path = document.parent().unwrap_or(Path::new("")).to_owned();
    for part in Path::new(named).components() {
        match part {
            Component::ParentDir => _ = path.pop(),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path
}
