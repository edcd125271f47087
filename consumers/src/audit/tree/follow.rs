//! Brings a tree level with the log: a step at a time, so that a long log holds up no batch for long.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use audit_tree::Signer;
use task_events::error_code::Code;

use super::super::current::Current;
use super::super::file::{Files, Lines, Section};
use super::super::segments::{self, Segment};
use super::growing::{self, End, Found, Growing};
use super::lock::lock;
use super::thread::Shared;
use super::trouble::Trouble;

/// How far a tree has come.
pub(super) enum Followed {
    /// It has all lines of the log.
    Level(Box<Growing>),
    /// It lacks some: the next step goes on with it.
    Partly(Box<Growing>),
}

/// The next step of a tree: of one that has begun, of that in the folder, or of another one, if the log does not go on
/// where it ends.
pub(super) fn follow<F: Files>(
    folder: &Path,
    signer: &Signer,
    current: &Current<'_, F>,
    shared: &Shared,
    (begun, unindexed): (Option<Box<Growing>>, (u64, u64)),
    step: u64,
) -> io::Result<Followed> {
    let mut files = segments::beside(current.files, current.real)?;
    files.push(current.real.to_owned());
    let found = match begun {
        Some(begun) => Found::Tree(begun),
        None => Growing::open(folder, signer)?,
    };
    let is_refuted = lock(&shared.anchors).is_refuted();
    let why = match found {
        Found::Tree(_) if is_refuted => {
            "Kafka has an anchor that it does not fit: log and tree were restored or rewritten"
        }
        Found::Tree(mut tree) => match find_end(current, &files, &tree.end())? {
            Some(end) => {
                if !add_files(&mut tree, current, shared, &files, end, step)? {
                    return Ok(Followed::Partly(tree));
                }
                if tree.fits_checkpoint() {
                    return finish(tree, current, shared).map(Followed::Level);
                }
                "its last checkpoint is of other lines: they were changed while the service was stopped"
            }
            None => "the log has not the line that it ends with: it was truncated, replaced or restored",
        },
        Found::Nothing => "",
        Found::Unusable(why) => why,
    };
    if !why.is_empty() {
        let aside = growing::set_aside(folder)?;
        let text = format!(
            "the tree of audit log {} is set aside as {}: {why}; a new tree begins",
            current.path.display(),
            aside.display()
        );
        log::error!("{text} {}", Code::AuditTree);
        shared.troubles.set(Trouble::SetAside, text);
    }
    lock(&shared.anchors).forget();
    // Of what was found before, places and lines are others now.
    lock(&shared.unconfirmed).forget();
    shared.troubles.clear(Trouble::Foreign);
    shared.add_found(current.real, unindexed);
    let mut tree = Box::new(Growing::create(folder, signer)?);
    match add_files(&mut tree, current, shared, &files, (0, 0), step)? {
        true => finish(tree, current, shared).map(Followed::Level),
        false => Ok(Followed::Partly(tree)),
    }
}

/// Writes what a tree that is level has; one that has just begun is signed.
fn finish<F: Files>(
    mut tree: Box<Growing>,
    current: &Current<'_, F>,
    shared: &Shared,
) -> io::Result<Box<Growing>> {
    tree.publish(tree.is_new() && lock(&shared.unconfirmed).is_empty())?;
    if tree.is_new() {
        log::info!(
            "audit log {} has a tree of {} lines: {}",
            current.path.display(),
            tree.size(),
            tree.origin()
        );
    }
    Ok(tree)
}

/// Adds the lines from that byte of that file on, as many as are in a step. Whether all are.
fn add_files<F: Files>(
    tree: &mut Growing,
    current: &Current<'_, F>,
    shared: &Shared,
    files: &[PathBuf],
    (file, from): (usize, u64),
    step: u64,
) -> io::Result<bool> {
    let (mut left, mut from) = (step, from);
    // Until the tree is level for the first time, what it lacks may be by anybody.
    let is_opened = shared.is_opened.load(Ordering::Relaxed);
    let finds = !tree.is_new() && !is_opened && lock(&shared.unconfirmed).is_compared();
    for path in files.iter().skip(file) {
        // What is left of it, where it is not compressed; that is read whole: to go on within it means to read it again.
        if !lock(&shared.unconfirmed).is_empty() {
            tree.hold();
        }
        let mut unsigned = finds.then_some((0, 0));
        let is_whole = add_file(tree, current, path, from, (&mut left, &mut unsigned))?;
        shared.add_found(path, unsigned.unwrap_or_default());
        if !is_whole {
            return Ok(false);
        }
        from = 0;
    }
    Ok(true)
}

/// The file with the line that the tree ends with, and where that line ends.
fn find_end<F: Files>(
    current: &Current<'_, F>,
    files: &[PathBuf],
    end: &End,
) -> io::Result<Option<(usize, u64)>> {
    let Some(leaf) = end.leaf else { return Ok(Some((0, 0))) };
    for (number, path) in files.iter().enumerate().rev() {
        let found = with_lines(current, path, end.start, |lines| {
            while let Some((at, bytes)) = lines.next()? {
                if at >= end.start {
                    let is_it = at == end.start && growing::leaf_of(bytes) == Some(leaf);
                    return Ok(is_it.then_some(at + bytes.len() as u64));
                }
            }
            Ok(None)
        })?;
        if let Some(at) = found {
            return Ok(Some((number, at)));
        }
    }
    // A segment that was archived elsewhere: all that is in the file came after it.
    Ok(end.sealed.then(|| (files.len().saturating_sub(1), 0)))
}

/// Adds lines until none are left of the step. Whether all of the file are added. Where it is asked for, keeps between which
/// bytes those are that the last checkpoint has not.
fn add_file<F: Files>(
    tree: &mut Growing,
    current: &Current<'_, F>,
    path: &Path,
    from: u64,
    (left, unsigned): (&mut u64, &mut Option<(u64, u64)>),
) -> io::Result<bool> {
    let is_compressed = path.extension().is_some_and(|extension| extension == "gz");
    with_lines(current, path, from, |lines| {
        while let Some((at, bytes)) = lines.next()? {
            if at < from {
                continue;
            }
            if *left == 0 && !is_compressed {
                return Ok(false);
            }
            let end = at + bytes.len() as u64;
            if tree.size() >= tree.signed()
                && let Some(unsigned) = unsigned
            {
                *unsigned = (if unsigned.1 == 0 { at } else { unsigned.0 }, end);
                tree.hold();
            }
            tree.add(bytes, end)?;
            tree.sync_if_due()?;
            *left = left.saturating_sub(bytes.len() as u64);
        }
        Ok(true)
    })
}

/// Reads the lines of the log's file, as far as they count, or of a segment; of one that is not compressed from there.
fn with_lines<F: Files, T>(
    current: &Current<'_, F>,
    path: &Path,
    from: u64,
    read: impl FnOnce(&mut Lines<Box<dyn io::Read + '_>>) -> io::Result<T>,
) -> io::Result<T> {
    if path == current.real {
        let section: Box<dyn io::Read> =
            Box::new(Section::new(current.file, from.min(current.length), current.length));
        return read(&mut Lines::new(section, from.min(current.length)));
    }
    let segment = Segment::open(current.files, path)?;
    read(&mut segment.lines(from))
}
