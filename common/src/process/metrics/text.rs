//! An exposition's text.

use std::fmt::{Display, Write};

use super::durations::Durations;

/// An exposition as it grows: families with their series below them.
#[derive(Debug, Default)]
pub struct Text(String);

impl Text {
    /// Begins a family, of the kind `gauge`, `counter` or `histogram`.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// One series of the family that was begun last.
    pub fn series(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if number == 0 { '{' } else { ',' }, escape(value));
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// A family of one series without labels.
    pub fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.series(name, &[], value);
    }

    /// One series of a histogram's family that was begun last.
    pub fn durations(&mut self, name: &str, labels: &[(&str, &str)], durations: &Durations) {
        let bucket = format!("{name}_bucket");
        for (bound, up_to) in durations.up_to_bounds() {
            self.series(&bucket, &[labels, &[("le", bound)]].concat(), up_to);
        }
        self.series(&bucket, &[labels, &[("le", "+Inf")]].concat(), durations.count());
        self.series(&format!("{name}_sum"), labels, durations.seconds());
        self.series(&format!("{name}_count"), labels, durations.count());
    }

    /// A histogram of one series.
    pub fn histogram(&mut self, name: &str, help: &str, labels: &[(&str, &str)], durations: &Durations) {
        self.family(name, "histogram", help);
        self.durations(name, labels, durations);
    }

    /// All of it.
    pub fn finish(self) -> String {
        self.0
    }
}

/// A label's value between its quotes.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_below_their_family_with_their_labels_escaped() {
        let mut text = Text::default();
        text.family("a_total", "counter", "Things");
        text.series("a_total", &[("b", "x\"y\\z\n"), ("c", "")], 3);
        text.single("d", "gauge", "More", 0.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total Things\n# TYPE a_total counter\na_total{b=\"x\\\"y\\\\z\\n\",c=\"\"} 3\n\
             # HELP d More\n# TYPE d gauge\nd 0.5\n"
        );
    }
}
