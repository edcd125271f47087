//! Which build this is.

use std::sync::LazyLock;

/// The commit that it was built from, where the build says so (`cargo xtask dist`): other builds do not look at the
/// repository, or each commit would compile everything again.
pub const COMMIT: Option<&str> = option_env!("TASK_EVENTS_COMMIT");

/// The version, and the commit where it is known: `0.1.0 (1a2b3c4d5e6f)`.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let version = env!("CARGO_PKG_VERSION");
        COMMIT.map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"))
    });
    &VERSION
}
