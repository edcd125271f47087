//! The anchors of audit logs in the offsets topic: of each tree the size and root at the last commit of each partition.

use serde::Deserialize;
use task_events::error_code::Code;

use crate::{Context, Error};

/// A size and a root that were committed, or cosigned by a witness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) origin: String,
    pub(super) size: u64,
    /// In hexadecimal.
    pub(super) root: String,
    /// The partition that it was committed with, or the witness that cosigned it.
    pub(super) place: String,
    /// Who has it, for people.
    pub(super) by: &'static str,
}

/// Who has the anchors that were committed.
pub(super) const KAFKA: &str = "Kafka";

/// What an anchor of another tree says that the log does not fit.
pub(super) const ANOTHER: &str = "lines were changed, or lost and written again, before this tree began; or that is the tree of another instance's log: then give --accept-origin with its name";

#[derive(Deserialize)]
struct Committed {
    size: u64,
    root: String,
}

/// The anchors of a group. What cannot be read is an error: it must not pass for an anchor that is not there.
pub(super) async fn read(context: &Context, group: &str) -> Result<Vec<Anchor>, Error> {
    let offsets = context.offsets().await?;
    offsets.catch_up().await?;
    let view = offsets.view();
    let view = view.borrow();
    let mut anchors = Vec::new();
    let mut is_known = false;
    for (slot, state) in view.fold.slots().filter(|(slot, _)| slot.group == group) {
        is_known = true;
        let Some(trees) = state.last_commit().and_then(|(_, commit)| commit.meta.get("trees")) else {
            continue;
        };
        let trees = trees.as_object().ok_or_else(|| unreadable(&slot.to_string()))?;
        for (origin, tree) in trees {
            let Committed { size, root } =
                Committed::deserialize(tree).map_err(|_| unreadable(&slot.to_string()))?;
            anchors.push(Anchor { origin: origin.clone(), size, root, place: slot.to_string(), by: KAFKA });
        }
    }
    if is_known { Ok(anchors) } else { Err(context.unknown_group(group)) }
}

fn unreadable(slot: &str) -> Error {
    Error::Refused(
        Code::ChecksFailed,
        format!(
            "the last commit of {slot} has an anchor that cannot be read: it was not written by audit-service"
        ),
    )
}
