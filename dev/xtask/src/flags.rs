//! The compiler's flags of what is shipped.

use crate::Result;
use crate::cargo::{self, Metadata};
use crate::shipped;
use std::path::Path;

/// The flags that keep this machine's paths out of a binary and a C toolchain out of its making.
pub fn rust_flags(metadata: &Metadata, target: &str) -> Result<Vec<String>> {
    let sysroot = cargo::output(std::process::Command::new("rustc").args(["--print", "sysroot"]))?;
    let home = std::env::var_os("CARGO_HOME").map(std::path::PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let home =
        home.ok_or_else(|| "neither CARGO_HOME nor a home folder is known; set CARGO_HOME".to_owned())?;
    let remap = |from: &Path, to: &str| format!("--remap-path-prefix={}={to}", from.display());
    let sysroot = Path::new(sysroot.trim());
    let mut flags = vec![
        remap(&metadata.workspace_root, "/task-events"),
        remap(&home, "/cargo"),
        remap(sysroot, "/rust"),
        "-Clinker=rust-lld".to_owned(),
    ];
    if target == shipped::MUSL_ARM {
        flags.extend(static_pie(&sysroot.join("lib/rustlib").join(target).join("lib/self-contained")));
    }
    Ok(flags)
}

/// rustc links musl for ARM at a fixed address, though its own objects can do without. So they are named
/// here: what starts a static-pie, `rcrt1.o`, in place of what starts a program at a fixed address.
fn static_pie(objects: &Path) -> Vec<String> {
    let named = ["rcrt1.o", "crti.o", "crtbeginS.o", "crtendS.o", "crtn.o"];
    ["-Clink-self-contained=no".to_owned(), format!("-Lnative={}", objects.display())]
        .into_iter()
        .chain(["-pie", "--no-dynamic-linker", "-ztext"].map(|argument| format!("-Clink-arg={argument}")))
        .chain(named.map(|object| format!("-Clink-arg={}", objects.join(object).display())))
        .collect()
}
