//! The static binaries: built for musl, seen to need nothing, and run where there is nothing.

use crate::Result;
use crate::audit_data;
use crate::cargo::{self, Metadata};
use crate::elf;
use crate::flags;
use crate::linker;
use crate::shipped::{self, BINARIES, DEMO_BINARIES, MUSL, PLATFORMS, Platform};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds, checks and runs every binary for every platform that can be run here.
pub fn run() -> Result<()> {
    let metadata = Metadata::read(None, &[MUSL])?;
    let all = [BINARIES, DEMO_BINARIES].concat();
    for platform in PLATFORMS {
        let Some(machine) = Machine::of(platform) else {
            println!("{}: not built, since {} is not there to run it", platform.name, emulator(platform));
            continue;
        };
        let folder = build(&metadata, &all, platform.target)?;
        let chroot = Chroot::new(&metadata.target_directory.join("empty-root"), machine)?;
        for name in &all {
            let program = folder.join(name);
            let size = check_static(&program)?;
            chroot.answers(&program, name)?;
            let with = chroot.machine.shown();
            println!(
                "{}/{name}: static-pie, {:.1} MB, runs in an empty chroot{with}",
                platform.name,
                size as f64 / 1e6
            );
        }
        chroot.remove()?;
    }
    Ok(())
}

/// Builds binaries as they are shipped, each with the list of its crates, and returns the folder that they are in.
pub fn build(metadata: &Metadata, binaries: &[&str], target: &str) -> Result<PathBuf> {
    install_target(target)?;
    let lists = audit_data::lists(metadata, binaries, target)?;
    let objects = metadata.target_directory.join("audit-data").join(target);
    audit_data::write_objects(&lists, target, &objects)?;
    let mut command = cargo::cargo();
    command.args(["build", "--locked", "--release", "--target", target]);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags::rust_flags(metadata, target)?.join("\u{1f}"));
    if let Some(commit) = commit() {
        command.env("TASK_EVENTS_COMMIT", commit);
    }
    // Should the gate have missed a crate that compiles C: there is no C compiler in this build.
    command.env(format!("CC_{target}"), "no-C-in-this-build");
    for package in shipped::packages_of(metadata, binaries)? {
        command.args(["--package", &package]);
    }
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    linker::link(&mut command, &objects)?;
    cargo::run(&mut command)?;
    let folder = metadata.target_directory.join(target).join("release");
    for (binary, list) in &lists {
        audit_data::check(&folder.join(binary), list)?;
    }
    Ok(folder)
}

/// The commit of the sources, as the binaries say it; none where they are in no repository.
fn commit() -> Option<String> {
    let git = |args: &[&str]| cargo::output(Command::new("git").args(args)).ok();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_changed = git(&["status", "--porcelain", "--untracked-files=no"])?.lines().next().is_some();
    Some(commit.trim().to_owned() + if is_changed { "-changed" } else { "" })
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

/// Wants a static-pie, and returns its size.
pub fn check_static(program: &Path) -> Result<usize> {
    let shown = program.display();
    let file = std::fs::read(program).map_err(|error| format!("{shown} cannot be read: {error}"))?;
    match elf::needs(&file) {
        None => Err(format!("{shown} is no 64-bit ELF file")),
        Some(elf::Needs { loader: false, libraries: 0, pie: true }) => Ok(file.len()),
        Some(elf::Needs { loader: false, libraries: 0, pie: false }) => Err(format!(
            "{shown} is linked for a fixed address; look at the linker's flags in dev/xtask/src/flags.rs"
        )),
        Some(needs) => {
            Err(format!("{shown} is not static ({needs:?}); look for a crate that links a system library"))
        }
    }
}

/// The emulator's name in the chroot.
const EMULATOR: &str = "emulator";

/// What runs a platform's programs.
enum Machine {
    /// This one.
    Own,
    /// An emulator, itself a static program.
    Emulated(PathBuf),
}

impl Machine {
    /// `None`: nothing here does.
    fn of(platform: &Platform) -> Option<Self> {
        if platform.architecture() == std::env::consts::ARCH {
            return Some(Self::Own);
        }
        let path = std::env::var_os("PATH")?;
        let programs = std::env::split_paths(&path).map(|folder| folder.join(emulator(platform)));
        programs.into_iter().find(|program| program.is_file()).map(Self::Emulated)
    }

    fn shown(&self) -> &'static str {
        match self {
            Self::Own => "",
            Self::Emulated(_) => ", emulated",
        }
    }
}

/// The name of the program that runs a platform's programs elsewhere, as Debian's qemu-user-static has it.
fn emulator(platform: &Platform) -> String {
    format!("qemu-{}-static", platform.architecture())
}

/// A folder that holds nothing but the program under test, and what runs it if this machine cannot.
struct Chroot {
    root: PathBuf,
    machine: Machine,
    /// The command that changes root, up to the folder.
    enter: &'static [&'static str],
}

impl Chroot {
    fn new(root: &Path, machine: Machine) -> Result<Self> {
        let is_root = cargo::output(Command::new("id").arg("-u"))?.trim() == "0";
        // Without root: as the root of a user namespace of its own.
        let enter: &[_] = if is_root { &["chroot"] } else { &["unshare", "--map-root-user", "chroot"] };
        let chroot = Self { root: root.to_owned(), machine, enter };
        chroot.empty()?;
        Ok(chroot)
    }

    fn answers(&self, program: &Path, name: &str) -> Result<()> {
        self.empty()?;
        self.take(program, name)?;
        if let Machine::Emulated(emulator) = &self.machine {
            self.take(emulator, EMULATOR)?;
        }
        for flag in ["--version", "--help"] {
            let (first, rest) = self.enter.split_first().unwrap_or((&"chroot", &[]));
            let mut command = Command::new(first);
            command.args(rest).arg(&self.root);
            if let Machine::Emulated(_) = self.machine {
                command.arg(format!("/{EMULATOR}"));
            }
            command.arg(format!("/{name}")).arg(flag);
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

    fn take(&self, program: &Path, name: &str) -> Result<()> {
        std::fs::copy(program, self.root.join(name)).map(drop).map_err(|error| {
            format!("{} cannot be copied to {}: {error}", program.display(), self.root.display())
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The header of an ELF file of a type (2: at a fixed address, 3: anywhere), with nothing behind it.
    fn header(kind: u8) -> Vec<u8> {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(64, 0);
        header[16] = kind;
        header
    }

    #[test]
    fn a_program_for_a_fixed_address_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, header(3)).unwrap();
        assert_eq!(check_static(&program), Ok(64));
        std::fs::write(&program, header(2)).unwrap();
        let error = check_static(&program).unwrap_err();
        assert!(error.contains("fixed address"), "{error}");
    }

    #[test]
    fn each_platform_runs_here_or_on_the_emulator_of_its_processor() {
        let emulators: Vec<_> = PLATFORMS.iter().map(emulator).collect();
        assert_eq!(emulators, ["qemu-x86_64-static", "qemu-aarch64-static"]);
        let own = PLATFORMS.iter().filter(|platform| matches!(Machine::of(platform), Some(Machine::Own)));
        assert_eq!(own.count(), usize::from(cfg!(any(target_arch = "x86_64", target_arch = "aarch64"))));
    }
}
