//! What was answered, what is in the topic, and what is in the audit log: do they agree?

use crate::requests::Task;
use crate::{Error, Result, TopicRecord};
use serde_json::Value;
use std::collections::{HashMap, HashSet};

/// A change of a task, as its event has it. Tests give every change a title of its own or a status that
/// the task had not before, so that no two are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Change {
    /// `task.created`, `task.updated` or `task.completed`.
    pub event_type: String,
    /// The task.
    pub task_id: String,
    /// Its title after the change.
    pub title: String,
    /// Its status after the change.
    pub status: String,
}

impl Change {
    /// The change that made the task what the API answered.
    pub fn new(event_type: &str, task: &Value) -> Result<Self> {
        Self::from_fields(event_type, "id", task)
    }

    /// The same, of a task that a [`Load`](crate::Load) was answered.
    pub fn of_task(event_type: &str, task: &Task) -> Self {
        let Task { id, title, status, .. } = task.clone();
        Self { event_type: event_type.to_owned(), task_id: id, title, status }
    }

    fn from_fields(event_type: &str, id_field: &str, data: &Value) -> Result<Self> {
        Ok(Self {
            event_type: event_type.to_owned(),
            task_id: text(data, id_field)?,
            title: text(data, "title")?,
            status: text(data, "status")?,
        })
    }
}

/// A field that has to be text.
fn text(json: &Value, field: &str) -> Result<String> {
    let text = json.get(field).and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| Error::failed(format!("no {field} in {json}")))
}

/// An event as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its id.
    pub event_id: String,
    /// The partition that it is in.
    pub partition: i64,
    /// Its offset there.
    pub offset: i64,
    /// What it says.
    pub change: Change,
}

impl Seen {
    /// The events among the records of the topic. What has no event id is no event.
    pub fn all_in_topic(records: &[TopicRecord]) -> Result<Vec<Self>> {
        let events = records.iter().filter_map(|record| {
            let event: Value = serde_json::from_slice(record.record.value.as_deref()?).ok()?;
            let is_event = event.get("event_id").is_some_and(Value::is_string);
            is_event.then(|| Self::read(&event, record.partition.into(), record.offset))
        });
        events.collect()
    }

    /// The lines of the audit log.
    pub fn all_in_audit_log(lines: &[Value]) -> Result<Vec<Self>> {
        let line = |line: &Value| {
            let number = |name: &str| {
                let number = line.get("kafka").and_then(|kafka| kafka.get(name)?.as_i64());
                number.ok_or_else(|| Error::failed(format!("no {name} in {line}")))
            };
            Self::read(line, number("partition")?, number("offset")?)
        };
        lines.iter().map(line).collect()
    }

    fn read(event: &Value, partition: i64, offset: i64) -> Result<Self> {
        let data = event.get("data").unwrap_or(&Value::Null);
        Ok(Self {
            event_id: text(event, "event_id")?,
            partition,
            offset,
            change: Change::from_fields(&text(event, "event_type")?, "task_id", data)?,
        })
    }
}

/// The three accounts of what happened.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Answered 2xx; those of one task in the order of its answers.
    pub answered: Vec<Change>,
    /// The topic, partition by partition in its order.
    pub topic: Vec<Seen>,
    /// The audit log, in its order.
    pub audited: Vec<Seen>,
}

impl History {
    /// An error with all that is wrong, if anything is: each change that was answered is in the topic once,
    /// those of one task in their order, nothing else is there, and the audit log has the same events once
    /// each in the same order.
    pub fn check(&self) -> Result<()> {
        let problems = self.problems();
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::failed(format!(
            "{} things are wrong with {} answers, {} events and {} audit lines:\n{}",
            problems.len(),
            self.answered.len(),
            self.topic.len(),
            self.audited.len(),
            problems.iter().take(20).map(|problem| format!("  {problem}\n")).collect::<String>()
        )))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_topic(&mut problems);
        self.check_audit_log(&mut problems);
        problems
    }

    fn check_topic(&self, problems: &mut Vec<String>) {
        let mut ids = HashSet::new();
        let mut places: HashMap<&Change, usize> = HashMap::new();
        for (place, seen) in self.topic.iter().enumerate() {
            if !ids.insert(&seen.event_id) {
                problems.push(format!("twice in the topic: {seen:?}"));
            } else if places.insert(&seen.change, place).is_some() {
                problems.push(format!("two events of one change: {seen:?}"));
            }
        }
        // For each task, where the last of its changes was.
        let mut last: HashMap<&str, usize> = HashMap::new();
        for change in &self.answered {
            let Some(place) = places.remove(change) else {
                problems.push(format!("answered and not in the topic: {change:?}"));
                continue;
            };
            if last.insert(&change.task_id, place).is_some_and(|before| before > place) {
                problems.push(format!("before an earlier change of its task: {change:?}"));
            }
        }
        for change in places.into_keys() {
            problems.push(format!("in the topic and never answered: {change:?}"));
        }
    }

    fn check_audit_log(&self, problems: &mut Vec<String>) {
        let in_topic: HashSet<_> = self.topic.iter().map(|seen| &seen.event_id).collect();
        let mut ids = HashSet::new();
        for line in &self.audited {
            if !ids.insert(&line.event_id) {
                problems.push(format!("twice in the audit log: {line:?}"));
            }
            if !in_topic.contains(&line.event_id) {
                problems.push(format!("in the audit log and not in the topic: {line:?}"));
            }
        }
        for seen in self.topic.iter().filter(|seen| !ids.contains(&seen.event_id)) {
            problems.push(format!("in the topic and not in the audit log: {seen:?}"));
        }
        if problems.is_empty() {
            // The same events once each: so what differs now is their order in a partition, or what they say. The sort is stable.
            let mut audited: Vec<_> = self.audited.iter().collect();
            audited.sort_by_key(|line| line.partition);
            let pairs = self.topic.iter().zip(audited);
            let differ = pairs.filter(|(seen, line)| seen != line);
            problems.extend(differ.map(|(seen, line)| format!("{seen:?} was audited here as {line:?}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(event_type: &str, task: usize) -> Change {
        let text = |text: &str| text.to_owned();
        Change {
            event_type: text(event_type),
            task_id: task.to_string(),
            title: text("title"),
            status: text(event_type),
        }
    }

    /// Two tasks, three changes each, as they should be recorded.
    fn sound() -> History {
        let types = ["task.created", "task.updated", "task.completed"];
        let answered: Vec<_> = types.iter().flat_map(|one| [change(one, 1), change(one, 2)]).collect();
        let topic: Vec<_> = answered.iter().zip(0..).map(|(change, offset)| seen(change, offset)).collect();
        History { answered, audited: topic.clone(), topic }
    }

    fn seen(change: &Change, offset: i64) -> Seen {
        Seen { event_id: format!("event {offset}"), partition: 0, offset, change: change.clone() }
    }

    fn problems(spoil: impl Fn(&mut History)) -> String {
        let mut history = sound();
        spoil(&mut history);
        history.problems().join("\n")
    }

    #[test]
    fn a_sound_history_is_found_sound() {
        sound().check().unwrap();
        // Changes of different tasks may be in any order.
        assert_eq!(problems(|history| history.answered.swap(0, 1)), "");
    }

    #[test]
    fn a_lost_event_is_reported() {
        let lost = |history: &mut History| drop(history.topic.remove(3));
        assert!(problems(lost).contains("answered and not in the topic"));
        let lost_in_both = problems(|history| {
            history.topic.remove(3);
            history.audited.remove(3);
        });
        assert!(lost_in_both.contains("answered and not in the topic"));
        let not_audited = problems(|history| drop(history.audited.remove(5)));
        assert!(not_audited.contains("in the topic and not in the audit log"));
    }

    #[test]
    fn a_doubled_event_is_reported() {
        let twice = problems(|history| {
            let again = history.topic[2].clone();
            history.topic.push(Seen { offset: 6, ..again });
        });
        assert!(twice.contains("twice in the topic"));
        let under_another_id = problems(|history| {
            let again = seen(&history.answered[2], 6);
            history.topic.push(again.clone());
            history.audited.push(again);
        });
        assert!(under_another_id.contains("two events of one change"));
        let audited_twice = problems(|history| history.audited.push(history.audited[0].clone()));
        assert!(audited_twice.contains("twice in the audit log"));
    }

    #[test]
    fn an_event_that_nobody_asked_for_is_reported() {
        let unasked = problems(|history| drop(history.answered.pop()));
        assert!(unasked.contains("in the topic and never answered"));
        let invented = problems(|history| history.audited.push(seen(&change("task.created", 3), 6)));
        assert!(invented.contains("in the audit log and not in the topic"));
    }

    #[test]
    fn a_reordered_event_is_reported() {
        let of_one_task = problems(|history| {
            history.topic.swap(0, 2);
            history.audited.swap(0, 2);
        });
        assert!(of_one_task.contains("before an earlier change of its task"));
        // Of two tasks: fine in the topic, but the log has to have the topic's order.
        assert!(problems(|history| history.audited.swap(0, 1)).contains("was audited here as"));
    }

    #[test]
    fn an_altered_event_is_reported() {
        let altered = problems(|history| history.audited[1].change.title.push('!'));
        assert!(altered.contains("was audited here as"));
        assert!(problems(|history| history.audited[1].offset = 9).contains("was audited here as"));
    }
}
