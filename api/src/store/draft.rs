//! Changes that go to disk together, as the log and memory have them.

use std::collections::HashMap;
use std::sync::Arc;

use super::delivery::{Delivered, OutboxEntry, PublishedTopic};
use super::mutation::Answer;
use super::operation::{EventBytes, Operation, TaskWrite};
use super::wal::frame::Group;
use crate::task::Task;

/// What a frame changes in memory.
#[derive(Debug)]
pub(super) enum Effect {
    Nothing,
    Change {
        task: Arc<Task>,
        write: TaskWrite,
        answer: Option<(Box<str>, Arc<Answer>)>,
        first_event: u64,
        events: u64,
    },
    Delivered(Delivered),
    PublishTo(PublishedTopic),
    /// An event of the former outbox table.
    Moved(u64),
}

/// Changes that go to disk together.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) frames: Group,
    /// What each frame changes, and where in the group it begins.
    pub(super) effects: Vec<(u64, Effect)>,
    /// The events of all of them.
    pub(super) events: Vec<Arc<OutboxEntry>>,
    /// Tasks that were changed; `None` for those that were deleted.
    pub(super) tasks: HashMap<[u8; 16], Option<Arc<Task>>>,
    pub(super) answers: HashMap<Box<str>, Arc<Answer>>,
}

impl Draft {
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.effects.clear();
        self.events.clear();
        self.tasks.clear();
        self.answers.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.effects.is_empty()
    }

    pub(super) fn delivered(&mut self, delivered: Delivered) {
        let operation = Operation::Delivered(delivered);
        let at = self.frames.add(|out| operation.write(out));
        if let Operation::Delivered(delivered) = operation {
            self.effects.push((at, Effect::Delivered(delivered)));
        }
    }

    pub(super) fn publish_to(&mut self, topic: PublishedTopic) {
        let at = self.frames.add(|out| Operation::PublishTo(topic).write(out));
        self.effects.push((at, Effect::PublishTo(topic)));
    }

    pub(super) fn nothing(&mut self) {
        let at = self.frames.add(|out| Operation::Nothing.write(out));
        self.effects.push((at, Effect::Nothing));
    }

    pub(super) fn moved(&mut self, entry: &OutboxEntry) {
        let event = EventBytes::of(entry);
        let operation = Operation::Moved { seq: entry.seq, task: entry.event.data.task_id, event };
        let at = self.frames.add(|out| operation.write(out));
        self.effects.push((at, Effect::Moved(entry.seq)));
    }
}
