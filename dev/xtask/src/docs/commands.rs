//! Command lines of the documents: packages, tests and examples of cargo, recipes of `just`, scripts of the
//! repository, and commands and flags of our own binaries, which are asked for their `--help`.

use super::tree::Tree;
use crate::Result;
use crate::cargo;
use crate::shipped;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Binaries beside those that are shipped whose command lines are checked, by the names of their packages.
const TOOLS: &[&str] = &["devbroker", "run-all", "verify"];

/// What the words of a command may name.
pub struct Commands<'a> {
    tree: &'a Tree,
    /// The names of this program's chores.
    chores: &'a [String],
    recipes: BTreeSet<String>,
    packages: BTreeSet<String>,
    /// Kind (`test`, `example`, `bin`, `bench`) and name.
    targets: BTreeSet<(String, String)>,
    binaries: Option<PathBuf>,
    help: RefCell<BTreeMap<String, Option<String>>>,
}

impl<'a> Commands<'a> {
    /// Asks cargo for the packages and reads the justfile.
    pub fn read(tree: &'a Tree, chores: &'a [String]) -> Result<Self> {
        let mut metadata = cargo::cargo();
        metadata.args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(&tree.root);
        let unknown = || "the output of cargo metadata is not in the known form".to_owned();
        let json: Value =
            serde_json::from_str(&cargo::output(&mut metadata)?).map_err(|error| error.to_string())?;
        let text = |json: &Value, key: &str| Some(json.get(key)?.as_str()?.to_owned());
        let list =
            |json: &Value, key: &str| json.get(key).and_then(Value::as_array).cloned().ok_or_else(unknown);
        let (mut packages, mut targets) = (BTreeSet::new(), BTreeSet::new());
        for package in list(&json, "packages")? {
            packages.extend(text(&package, "name"));
            for target in list(&package, "targets")? {
                let name = text(&target, "name").ok_or_else(unknown)?;
                let kinds = list(&target, "kind")?;
                targets.extend(
                    kinds.iter().filter_map(Value::as_str).map(|kind| (kind.to_owned(), name.clone())),
                );
            }
        }
        let justfile = tree.text(Path::new("justfile"))?;
        let recipes = justfile.lines().filter(|line| !line.starts_with([' ', '#', '@', '\t']));
        let names = recipes.filter_map(|line| line.split_once(':')?.0.split(' ').next());
        let target_directory = text(&json, "target_directory").ok_or_else(unknown)?;
        let mut commands = Self {
            tree,
            chores,
            recipes: names.map(str::to_owned).collect(),
            packages,
            targets,
            binaries: None,
            help: RefCell::default(),
        };
        if commands.binary("taskctl") {
            commands.build_binaries()?;
            commands.binaries = Some(Path::new(&target_directory).join("debug"));
        }
        Ok(commands)
    }

    /// Those whose `--help` is asked for. With the features of the whole workspace, as everything else here is
    /// built, so that nothing is compiled twice.
    fn build_binaries(&self) -> Result<()> {
        let mut build = cargo::cargo();
        build.args(["build", "--quiet", "--workspace"]).current_dir(&self.tree.root);
        for name in shipped::BINARIES.iter().chain(TOOLS) {
            build.args(["--bin", name]);
        }
        cargo::run(&mut build)
    }

    fn binary(&self, name: &str) -> bool {
        self.targets.contains(&("bin".to_owned(), name.to_owned()))
            && (shipped::BINARIES.contains(&name) || TOOLS.contains(&name))
    }

    /// The first thing that a command line names and that does not exist.
    pub fn problem(&self, line: &str) -> Result<Option<String>> {
        // A comment begins with a space and a `#`.
        let line = line.split(" #").next().unwrap_or_default();
        if line.trim_start().starts_with('#') {
            return Ok(None);
        }
        for part in line.split(['|', ';', '&', '(', ')']) {
            let assigned =
                |word: &&str| word.contains('=') && !word.starts_with('-') && !word.starts_with('=');
            let words: Vec<&str> = part.split_whitespace().skip_while(assigned).collect();
            if let Some(problem) = self.problem_of(&words)? {
                return Ok(Some(format!("runs `{}`: {problem}", words.join(" "))));
            }
        }
        Ok(None)
    }

    fn problem_of(&self, words: &[&str]) -> Result<Option<String>> {
        let Some((program, rest)) = words.split_first() else { return Ok(None) };
        match *program {
            "cargo" => self.of_cargo(rest),
            "just" => Ok(rest
                .first()
                .filter(|recipe| is_name(recipe) && !self.recipes.contains(**recipe))
                .map(|recipe| format!("the justfile has no recipe {recipe}"))),
            "bash" | "source" => self.problem_of(rest),
            binary if self.binary(binary) => self.of_binary(binary, rest),
            path => {
                let first = path.split_once('/').map(|(folder, _)| folder);
                let ours = first.is_some_and(|folder| self.tree.exists(Path::new(folder)));
                let missing = ours && !self.tree.exists(Path::new(path));
                Ok(missing.then(|| format!("there is no {path}")))
            }
        }
    }

    fn of_cargo(&self, words: &[&str]) -> Result<Option<String>> {
        let words = match words {
            [toolchain, rest @ ..] if toolchain.starts_with('+') => rest,
            words => words,
        };
        let Some((command, rest)) = words.split_first() else { return Ok(None) };
        match (*command, rest) {
            ("xtask", [chore, ..]) if is_name(chore) => {
                let known = self.chores.iter().any(|known| known == chore);
                return Ok((!known).then(|| format!("there is no chore {chore}")));
            }
            ("run-all" | "taskctl", rest) => return self.of_binary(command, rest),
            ("run" | "test" | "build" | "check" | "clippy" | "bench", _) => {}
            _ => return Ok(None),
        }
        let (mut package, mut words) = (None, rest.iter().copied());
        while let Some(word) = words.next() {
            let kind = match word {
                "--" => break,
                "-p" | "--package" => {
                    package = words.next();
                    let unknown = package.filter(|name| is_name(name) && !self.packages.contains(*name));
                    if let Some(name) = unknown {
                        return Ok(Some(format!("there is no package {name}")));
                    }
                    continue;
                }
                "--test" => "test",
                "--example" => "example",
                "--bin" => "bin",
                "--bench" => "bench",
                "--target" | "--features" | "--manifest-path" => {
                    words.next();
                    continue;
                }
                filter if *command == "test" && is_name(filter) => {
                    if self.tree.has_function_like(filter) {
                        continue;
                    }
                    return Ok(Some(format!("no function's name contains {filter}")));
                }
                _ => continue,
            };
            let name = words.next().unwrap_or_default();
            if is_name(name) && !self.targets.contains(&(kind.to_owned(), name.to_owned())) {
                let article = if kind == "example" { "an" } else { "a" };
                return Ok(Some(format!("no package has {article} {kind} {name}")));
            }
        }
        match package.filter(|name| *command == "run" && self.binary(name)) {
            Some(binary) => self.of_binary(binary, &words.collect::<Vec<_>>()),
            None => Ok(None),
        }
    }

    /// Descends into the commands of a binary as far as they go, then looks for each flag.
    fn of_binary(&self, binary: &str, words: &[&str]) -> Result<Option<String>> {
        let mut path = binary.to_owned();
        let mut words = words.iter().copied().peekable();
        let Some(mut help) = self.help(&path)? else { return Ok(None) };
        while let Some(commands) = commands_of(&help) {
            let Some(word) = words.next_if(|word| is_name(word)) else { break };
            if !commands.contains(word) {
                return Ok(Some(format!("{path} has no command {word}")));
            }
            path = format!("{path} {word}");
            help = self.help(&path)?.unwrap_or_default();
        }
        let known: BTreeSet<&str> = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
        let flags = words.filter(|word| word.starts_with("--") && word.len() > 2);
        let names = flags.map(|flag| flag.split('=').next().unwrap_or_default());
        Ok(names
            .into_iter()
            .find(|flag| !known.contains(flag))
            .map(|flag| format!("{path} has no flag {flag}")))
    }

    /// What `--help` shows, if there are binaries to ask.
    fn help(&self, path: &str) -> Result<Option<String>> {
        let Some(folder) = &self.binaries else { return Ok(None) };
        if let Some(known) = self.help.borrow().get(path) {
            return Ok(known.clone());
        }
        let mut words = path.split(' ');
        let mut command = Command::new(folder.join(words.next().unwrap_or_default()));
        let help = cargo::output(command.args(words).arg("--help"))?;
        self.help.borrow_mut().insert(path.to_owned(), Some(help.clone()));
        Ok(Some(help))
    }
}

/// The commands that a help page lists, if it lists any.
fn commands_of(help: &str) -> Option<BTreeSet<&str>> {
    let (_, list) = help.split_once("\nCommands:\n")?;
    Some(
        list.lines()
            .take_while(|line| line.starts_with("  "))
            .filter_map(|line| line.split_whitespace().next())
            .collect(),
    )
}

/// Whether a word is a name as packages, recipes and commands have them: no flag, value or placeholder.
fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'))
}
