//! The compiler of what is shipped: rustc, which also links an object file into each binary.
//!
//! cargo calls this program in place of rustc for the packages of the workspace (`RUSTC_WORKSPACE_WRAPPER`), the
//! variable [`OBJECTS`] tells it so. Of that variable cargo hashes the text into each symbol's name, so a path in it would make
//! other bytes in another folder: it is a bare name, found by `PATH`.

use crate::Result;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The variable that names the folder of the object files, `NAME.o` for each binary.
const OBJECTS: &str = "XTASK_OBJECTS";
/// This program's name as a compiler.
const NAME: &str = "task-events-rustc";

/// Has a build link the object files of a folder.
pub fn link(command: &mut Command, objects: &Path) -> Result<()> {
    let folder = objects.join("bin");
    let cannot = |error: std::io::Error| format!("{}: {error}", folder.display());
    fs::create_dir_all(&folder).map_err(cannot)?;
    let own = std::env::current_exe().map_err(cannot)?;
    let program = folder.join(NAME);
    // Not written over: it may be running.
    if program.exists() {
        fs::remove_file(&program).map_err(cannot)?;
    }
    fs::copy(own, program).map_err(cannot)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder.clone()).chain(std::env::split_paths(&path)));
    command.env("PATH", path.map_err(|error| format!("{}: {error}", folder.display()))?);
    command.env("RUSTC_WORKSPACE_WRAPPER", NAME).env(OBJECTS, objects);
    Ok(())
}

/// The folder of the object files, if this process is a compiler.
pub fn objects() -> Option<PathBuf> {
    std::env::var_os(OBJECTS).map(PathBuf::from)
}

/// Becomes rustc. Returns only why that is not possible.
pub fn run(objects: &Path) -> String {
    let mut arguments = std::env::args_os().skip(1);
    let Some(rustc) = arguments.next() else {
        return format!(
            "{OBJECTS} is set, so this is a compiler and needs its arguments; unset it for a chore"
        );
    };
    let arguments: Vec<_> = arguments.collect();
    // cargo sets the variable where it compiles a binary.
    let binary = std::env::var_os("CARGO_BIN_NAME");
    let object = binary.and_then(|binary| object(objects, &binary, &arguments));
    let error = Command::new(&rustc).args(&arguments).args(object).exec();
    format!("{} does not start: {error}", rustc.display())
}

/// What links the object file of a binary. One that is missing ends the build.
fn object(objects: &Path, binary: &OsStr, arguments: &[OsString]) -> Option<OsString> {
    let is_binary = arguments
        .windows(2)
        .any(|pair| matches!(pair, [flag, kind] if flag == "--crate-type" && kind == "bin"));
    let mut file = OsString::from("-Clink-arg=");
    file.push(objects.join(binary));
    file.push(".o");
    is_binary.then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_gets_its_object_and_a_test_of_it_gets_none() {
        let arguments = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let object = |text| object(Path::new("/x"), OsStr::new("task-api"), &arguments(text));
        assert_eq!(
            object("--crate-name task_api --crate-type bin src/main.rs"),
            Some("-Clink-arg=/x/task-api.o".into())
        );
        assert_eq!(object("--crate-name task_api --test src/main.rs"), None);
    }
}
