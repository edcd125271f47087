//! State folders: whether two of them share an identity, what file system they are on, and how much space is free.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::findings::Findings;

/// Kept free for a store's growth between two looks, in bytes: below 64 MiB changes will soon be refused.
const LEAST_FREE: u64 = 64 * 1024 * 1024;
/// File systems by the numbers of Linux (`statfs(2)`), where state is not safe.
const UNSAFE: [(u64, &str); 4] = [
    (0x0102_1994, "tmpfs, which a restart of the machine empties"),
    (0x6969, "NFS, where locks and fsync may not hold"),
    (0xff53_4d42, "CIFS, where locks and fsync may not hold"),
    (0xfe53_4d42, "SMB, where locks and fsync may not hold"),
];

pub(super) fn examine(root: &Path, findings: &mut Findings) {
    let subject = format!("state folder {}", root.display());
    let folders: Vec<PathBuf> = match fs::read_dir(root) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect(),
        Err(error) => {
            let remedy =
                "run this where the services run, and as their user, or name the folder with --state-dir";
            return findings.unreadable(subject, &error, remedy);
        }
    };
    if folders.is_empty() {
        findings.warn(subject, "no service has state there", "name the folder with --state-dir");
        return;
    }
    let mut instances: BTreeMap<String, Vec<&Path>> = BTreeMap::new();
    for folder in &folders {
        if let Ok(id) = fs::read_to_string(folder.join("instance_id")) {
            instances.entry(id.trim().to_owned()).or_default().push(folder);
        }
    }
    for (id, folders) in instances.iter().filter(|(_, folders)| folders.len() > 1) {
        let names: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        findings.fail(
            &subject,
            format!("{} have one instance id, {id}: one is a copy of another", names.join(" and ")),
            "remove the file instance_id from the copy: its service makes a new one",
        );
    }
    disk(&subject, root, findings);
}

/// The file system below a folder.
pub(super) fn disk(subject: &str, path: &Path, findings: &mut Findings) {
    let (kind, space) = match (rustix::fs::statfs(path), rustix::fs::statvfs(path)) {
        (Ok(kind), Ok(space)) => (kind, space),
        (Err(error), _) | (_, Err(error)) => {
            return findings.warn(
                subject,
                format!("its file system cannot be seen: {error}"),
                "look at it with df",
            );
        }
    };
    let kind = u64::try_from(kind.f_type).unwrap_or_default() & 0xffff_ffff;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let mib = free / 1024 / 1024;
    if let Some((_, name)) = UNSAFE.iter().find(|(number, _)| *number == kind) {
        findings.warn(subject, format!("it is on {name}"), "use a local disk: ext4 or xfs");
    }
    if free < LEAST_FREE {
        findings.fail(
            subject,
            format!("{mib} MiB are free"),
            "free space: changes are refused on a full disk",
        );
    } else {
        findings.ok(subject, format!("{mib} MiB are free"));
    }
}
