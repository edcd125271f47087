//! What leaves this repository. The one list of it.

use crate::Result;
use crate::cargo::Metadata;
use std::collections::BTreeSet;

/// The target of the static binaries.
pub const MUSL: &str = "x86_64-unknown-linux-musl";

/// The same for 64-bit ARM.
pub const MUSL_ARM: &str = "aarch64-unknown-linux-musl";

/// A platform that binaries are made for.
pub struct Platform {
    /// As Rust calls it.
    pub target: &'static str,
    /// As image builders call it; the name of its folder.
    pub name: &'static str,
}

impl Platform {
    /// The processor's, as Rust and qemu call it.
    pub fn architecture(&self) -> &str {
        self.target.split('-').next().unwrap_or_default()
    }
}

/// All of them.
pub const PLATFORMS: &[Platform] =
    &[Platform { target: MUSL, name: "linux-amd64" }, Platform { target: MUSL_ARM, name: "linux-arm64" }];

/// The target of a plain `cargo build`.
pub const GNU: &str = "x86_64-unknown-linux-gnu";

/// The binaries that an installation has.
pub const BINARIES: &[&str] =
    &["task-api", "notification-service", "audit-service", "dlq-processor", "taskctl"];

/// For demos and tests; built and checked like the others.
pub const DEMO_BINARIES: &[&str] = &["devbroker"];

/// The sources of what the binaries are built from, the workspace's own.
pub const SOURCES: &[&str] = &[
    "api/src",
    "audit-tree/src",
    "common/src",
    "consumers/src",
    "musl/mem-functions/src",
    "musl/thread-cache/src",
    "taskctl/src",
];

/// The packages that the binaries are in.
pub fn packages_of(metadata: &Metadata, binaries: &[&str]) -> Result<Vec<String>> {
    let mut packages = BTreeSet::new();
    for binary in binaries {
        let package = metadata.package_of_binary(binary).ok_or_else(|| {
            format!("no package of this workspace has the binary {binary}; correct the list in dev/xtask/src/shipped.rs")
        })?;
        packages.insert(package.to_owned());
    }
    Ok(packages.into_iter().collect())
}
