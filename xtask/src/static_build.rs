//! The static binaries: built for musl, seen to need nothing, and run where there is nothing.

use crate::Result;
use crate::cargo::{self, Metadata};
use crate::dist;
use crate::elf;
use crate::shipped::{self, BINARIES, DEMO_BINARIES, MUSL};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds, checks and runs every binary.
pub fn run() -> Result<()> {
    let metadata = Metadata::read(None, &[MUSL])?;
    let all = [BINARIES, DEMO_BINARIES].concat();
    let folder = build(&metadata, &all, MUSL)?;
    let chroot = Chroot::new(&metadata.target_directory.join("empty-root"))?;
    for name in all {
        let program = folder.join(name);
        let (kind, size) = check_static(&program)?;
        chroot.answers(&program, name)?;
        println!("{name}: {kind}, {:.1} MB, runs in an empty chroot", size as f64 / 1e6);
    }
    chroot.remove()
}

/// Builds binaries as they are shipped, and returns the folder that they are in.
pub fn build(metadata: &Metadata, binaries: &[&str], target: &str) -> Result<PathBuf> {
    install_target(target)?;
    let mut command = cargo::cargo();
    command.args(["build", "--locked", "--release", "--target", target]);
    command.env("CARGO_ENCODED_RUSTFLAGS", dist::rust_flags(metadata)?.join("\u{1f}"));
    // Should the gate have missed a crate that compiles C: there is no C compiler in this build.
    command.env(format!("CC_{target}"), "no-C-in-this-build");
    for package in shipped::packages_of(metadata, binaries)? {
        command.args(["--package", &package]);
    }
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    cargo::run(&mut command)?;
    Ok(metadata.target_directory.join(target).join("release"))
}

fn install_target(target: &str) -> Result<()> {
    let libraries =
        cargo::output(Command::new("rustc").args(["--print", "target-libdir", "--target", target]))?;
    if Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    cargo::run(Command::new("rustup").args(["target", "add", target]))
        .map_err(|error| format!("{error}; install Rust's standard library for {target}"))
}

/// Returns how it is linked, and its size.
pub fn check_static(program: &Path) -> Result<(&'static str, usize)> {
    let shown = program.display();
    let file = std::fs::read(program).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    match elf::needs(&file) {
        None => Err(format!("{shown} is no 64-bit ELF file")),
        Some(elf::Needs { loader: false, libraries: 0, pie }) => {
            Ok((if pie { "static-pie" } else { "static" }, file.len()))
        }
        Some(needs) => {
            Err(format!("{shown} is not static ({needs:?}); look for a crate that links a system library"))
        }
    }
}

/// A folder that holds nothing but the program under test.
struct Chroot {
    root: PathBuf,
    /// The command that changes root, up to the folder.
    enter: &'static [&'static str],
}

impl Chroot {
    fn new(root: &Path) -> Result<Self> {
        let is_root = cargo::output(Command::new("id").arg("-u"))?.trim() == "0";
        // Without root: as the root of a user namespace of its own.
        let enter: &[_] = if is_root { &["chroot"] } else { &["unshare", "--map-root-user", "chroot"] };
        let chroot = Self { root: root.to_owned(), enter };
        chroot.empty()?;
        Ok(chroot)
    }

    fn answers(&self, program: &Path, name: &str) -> Result<()> {
        self.empty()?;
        std::fs::copy(program, self.root.join(name)).map_err(|error| {
            format!("{} cannot be copied to {}: {error}", program.display(), self.root.display())
        })?;
        for flag in ["--version", "--help"] {
            let (first, rest) = self.enter.split_first().unwrap_or((&"chroot", &[]));
            let mut command = Command::new(first);
            command.args(rest).arg(&self.root).arg(format!("/{name}")).arg(flag);
            // Where a user's PATH leaves out the folder that chroot is in.
            command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
            let said = cargo::output(&mut command).map_err(|error| {
                format!("{error}; if chroot itself is what failed: run this as root, or where users may make namespaces")
            })?;
            if !said.contains(name) {
                return Err(format!("{name} {flag} does not say its name in an empty chroot: {said:?}"));
            }
        }
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        if self.root.exists() {
            self.remove_folder()?;
        }
        std::fs::create_dir_all(&self.root)
            .map_err(|error| format!("{} cannot be made: {error}", self.root.display()))
    }

    fn remove(self) -> Result<()> {
        self.remove_folder()
    }

    fn remove_folder(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.root)
            .map_err(|error| format!("{} cannot be emptied: {error}", self.root.display()))
    }
}
