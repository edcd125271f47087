//! What is done to a log or its tree, how, and what names it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{edit, segment};

pub type Hand = fn(&Path);

/// What is done, how, and what names it.
pub const HANDS: [(&str, Hand, &[&str]); 22] = [
    (
        "a changed byte",
        |folder| edit(folder, "audit.log", |lines| lines[7] = lines[7].replace("task-api", "task-apj")),
        &["audit.log:8 (byte ", "is not what entry 307 was: the line was changed"],
    ),
    (
        "a deleted line",
        |folder| edit(folder, &segment(), |lines| drop(lines.remove(9))),
        &["entry 9 is missing before audit-00000000000000000000.log:10 (byte "],
    ),
    (
        "swapped lines",
        |folder| edit(folder, "audit.log", |lines| lines.swap(40, 41)),
        &["audit.log:41 (byte ", "is entry 341, out of place: lines were swapped"],
    ),
    (
        "an inserted line",
        |folder| {
            edit(folder, "audit.log", |lines| {
                let forged = lines[5].replace("\"event_id\":\"01", "\"event_id\":\"11");
                lines.insert(6, forged);
            });
        },
        &["audit.log:7 (byte ", "is no part of the tree: inserted"],
    ),
    (
        "two lines merged",
        |folder| {
            edit(folder, "audit.log", |lines| {
                let second = lines.remove(21);
                lines[20].push_str(&second);
            });
        },
        &["from audit.log:21 (byte ", "1 lines are in the place of 2 entries from 320 on"],
    ),
    (
        "a truncated log",
        |folder| edit(folder, "audit.log", |lines| lines.truncate(100)),
        &["entries 400 to 649 have no line at the end of the log"],
    ),
    (
        "a missing segment",
        |folder| fs::remove_file(folder.join(segment())).unwrap(),
        &["entries 0 to 299 are in no file before audit.log: a segment is missing"],
    ),
    (
        "a segment under a name that is none",
        |folder| fs::rename(folder.join(segment()), folder.join("old.log")).unwrap(),
        &["entries 0 to 299 are in no file before audit.log: a segment is missing"],
    ),
    (
        "a compressed segment changed",
        |folder| {
            edit(folder, &segment(), |lines| lines[2] = lines[2].replace("task-api", "task-apj"));
            assert!(Command::new("gzip").arg(folder.join(segment())).status().unwrap().success());
        },
        &["audit-00000000000000000000.log.gz:3 (byte ", "is not what entry 2 was"],
    ),
    (
        "a changed tile",
        |folder| {
            let tile = folder.join("audit.log.tree/tile/1/000.p/2");
            let mut bytes = fs::read(&tile).unwrap();
            bytes[5] ^= 1;
            fs::write(tile, bytes).unwrap();
        },
        &["tile/1/000.p/2 was changed: hash 0, and not the log", " 1 differences"],
    ),
    (
        "a changed tile of leaves",
        |folder| {
            let tile = folder.join("audit.log.tree/tile/0/000");
            let mut bytes = fs::read(&tile).unwrap();
            bytes[5] ^= 1;
            fs::write(tile, bytes).unwrap();
        },
        &["tile/0/000 was changed: hash 0, and not the log", " 1 differences"],
    ),
    (
        "a missing partial tile",
        |folder| fs::remove_file(folder.join("audit.log.tree/tile/1/000.p/2")).unwrap(),
        &["tile/1/000.p/2: it is missing", " 1 differences"],
    ),
    (
        "many deleted lines and one changed behind them",
        |folder| {
            edit(folder, "audit.log", |lines| {
                lines[300] = lines[300].replace("task-api", "task-apj");
                lines.drain(10..110);
            });
        },
        &[
            "entries 310 to 409 are missing before audit.log:11 (byte ",
            "audit.log:201 (byte ",
            "is not what entry 600 was: the line was changed",
            " 2 differences",
        ],
    ),
    (
        "a first line of another year",
        |folder| {
            edit(folder, &segment(), |lines| {
                lines[0] = lines[0].replace("audited_at\":\"2", "audited_at\":\"9")
            })
        },
        &["audit-00000000000000000000.log:1 (byte 0) is not what entry 0 was", " 1 differences"],
    ),
    (
        "a damaged compressed segment, and a changed line",
        |folder| {
            assert!(Command::new("gzip").arg(folder.join(segment())).status().unwrap().success());
            let gzip = folder.join(format!("{}.gz", segment()));
            let bytes = fs::read(&gzip).unwrap();
            fs::write(&gzip, &bytes[..bytes.len() / 2]).unwrap();
            edit(folder, "audit.log", |lines| lines[7] = lines[7].replace("task-api", "task-apj"));
        },
        &[
            "audit-00000000000000000000.log.gz cannot be read behind line ",
            " to 299 are in no line that can be read: audit-00000000000000000000.log.gz is damaged",
            "audit.log:8 (byte ",
            "is not what entry 307 was: the line was changed",
        ],
    ),
    (
        "a forged checkpoint",
        |folder| edit(folder, "audit.log.tree/checkpoint", |lines| lines[1] = "649".to_owned()),
        &["audit.log.tree/checkpoint: it is not signed by this key"],
    ),
    (
        "a checkpoint of more entries",
        |folder| edit(folder, "audit.log.tree/checkpoint", |lines| lines[1] = "99999".to_owned()),
        &[
            "audit.log.tree/checkpoint: it is not signed by this key",
            "the tree lacks entries 512 to 99998: tile ",
        ],
    ),
    (
        "a changed line beside a tile that is missing",
        |folder| {
            fs::remove_file(folder.join("audit.log.tree/tile/0/001")).unwrap();
            edit(folder, &segment(), |lines| lines[2] = lines[2].replace("task-api", "task-apj"));
        },
        &["the tree lacks entries 256 to 511: tile ", ".log:3 (byte ", "is not what entry 2 was"],
    ),
    (
        "many changed lines",
        |folder| {
            edit(folder, "audit.log", |lines| {
                lines[20..320].iter_mut().for_each(|line| *line = line.replace("task-api", "task-apj"));
            });
        },
        &["audit.log:21 (byte ", "299 lines behind it are not what entries 320 to 619 were"],
    ),
    (
        "no tree",
        |folder| fs::remove_dir_all(folder.join("audit.log.tree")).unwrap(),
        &["there is no tree ", "AUDIT_KEY_FILE"],
    ),
    (
        "a checkpoint of another origin",
        |folder| edit(folder, "audit.log.tree/checkpoint", |lines| lines[0].push('x')),
        &["audit.log.tree/checkpoint: it is not signed by this key"],
    ),
    (
        "a line appended by a stranger",
        |folder| {
            edit(folder, "audit.log", |lines| {
                lines.push(
                    lines[5]
                        .replace("\"event_id\":\"01", "\"event_id\":\"11")
                        .replace("\"offset\":305", "\"offset\":999"),
                );
            });
        },
        &["1 lines are behind its checkpoint, from audit.log:351 (byte ", "appended by somebody else"],
    ),
];
