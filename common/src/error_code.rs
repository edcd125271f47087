//! The codes of error lines, and the catalogue that explains them.
//!
//! An error line ends with its code in brackets: `… [TE0502]`. A code never changes its meaning and is never used
//! again; its page is `docs/errors/CODE.md`, which `taskctl explain CODE` shows. A code without a page does not
//! compile.

use std::fmt;

/// Declares the codes, and includes the page of each.
macro_rules! codes {
    ($($name:ident = $code:literal,)*) => {
        /// What went wrong, as a number to look up.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[allow(missing_docs, reason = "each is described by its page in docs/errors")]
        pub enum Code {
            $($name,)*
        }

        impl Code {
            /// All codes, in order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as it is in a line, without brackets.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)*
                }
            }

            /// Its page of the catalogue, in Markdown: cause and remedy.
            pub fn page(self) -> &'static str {
                match self {
                    $(Self::$name => include_str!(concat!("../../docs/errors/", $code, ".md")),)*
                }
            }
        }
    };
}

codes! {
    Logging = "TE0101",
    StateFolder = "TE0102",
    System = "TE0103",
    Listen = "TE0104",
    Http = "TE0105",
    DedupState = "TE0106",
    Stdout = "TE0107",
    Panic = "TE0108",
    AccessFile = "TE0109",
    WebhookSecrets = "TE0110",
    Store = "TE0201",
    Relay = "TE0202",
    StoreUnwritable = "TE0203",
    StoredValue = "TE0204",
    StoreLogGone = "TE0205",
    AnswersLost = "TE0206",
    Database = "TE0207",
    DatabaseAddress = "TE0208",
    DatabaseSchema = "TE0209",
    StoreMoved = "TE0210",
    CannotImport = "TE0211",
    DatabaseMovedAway = "TE0212",
    CannotExport = "TE0213",
    MalformedEvent = "TE0301",
    UnreadableRecord = "TE0302",
    GaveUp = "TE0303",
    EventsLost = "TE0304",
    WorkerPanic = "TE0305",
    HealthEnded = "TE0306",
    WebhookGone = "TE0307",
    OwnStateBehind = "TE0308",
    AuditLogOpen = "TE0401",
    AuditLogInUse = "TE0402",
    AuditLogDamaged = "TE0403",
    AuditLogTail = "TE0404",
    AuditLogRecover = "TE0405",
    AuditLogRotate = "TE0406",
    AuditLinesMissing = "TE0407",
    AuditSignal = "TE0408",
    AuditTree = "TE0409",
    AuditKey = "TE0410",
    AuditForeignLine = "TE0411",
    KafkaUnreachable = "TE0501",
    UnknownTopic = "TE0502",
    UnknownPartition = "TE0503",
    KafkaRefused = "TE0504",
    OffsetOutOfRange = "TE0505",
    RecordRefused = "TE0506",
    UnknownGroup = "TE0507",
    GroupLive = "TE0508",
    CannotMove = "TE0509",
    Answer = "TE0510",
    File = "TE0511",
    NotFound = "TE0512",
    ChecksFailed = "TE0513",
    NotRedriven = "TE0514",
    NotSeen = "TE0515",
    OffsetsTopicForgets = "TE0516",
    Selection = "TE0517",
    KafkaTls = "TE0520",
    KafkaLogin = "TE0521",
    RegistryUnreachable = "TE0601",
    RegistryRefused = "TE0602",
    SchemaNotFound = "TE0603",
    SchemaIncompatible = "TE0604",
    SchemaUnusable = "TE0605",
}

impl Code {
    /// The code of that name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.as_str().eq_ignore_ascii_case(name))
    }

    /// A line with the code at its end, unless it has it already: an error that is logged as it is brings its own.
    pub fn after(self, line: impl fmt::Display) -> String {
        let line = line.to_string();
        match line.contains(&self.to_string()) {
            true => line,
            false => format!("{line} {self}"),
        }
    }

    /// What it means, in some words.
    pub fn title(self) -> &'static str {
        let heading = self.page().lines().next().unwrap_or_default();
        heading.split_once(": ").map_or(heading, |(_, title)| title)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.as_str())
    }
}

/// An error that has a code.
pub trait Coded {
    /// Its code.
    fn code(&self) -> Code;
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn each_code_has_a_page_with_cause_and_remedy_and_each_page_a_code() {
        let mut pages: HashSet<String> = HashSet::new();
        for page in fs::read_dir(root().join("docs/errors")).unwrap() {
            pages.insert(page.unwrap().file_name().into_string().unwrap());
        }
        for code in Code::ALL {
            let page = code.page();
            assert!(page.starts_with(&format!("# {}: ", code.as_str())), "{code}");
            for section in ["\n## Cause\n\n", "\n## Remedy\n\n"] {
                let (_, text) =
                    page.split_once(section).unwrap_or_else(|| panic!("{code} has no {section:?}"));
                assert!(text.len() > 20, "{code}: {section:?} says nothing");
            }
            assert!(pages.remove(&format!("{}.md", code.as_str())), "{code} is used twice");
            assert_eq!(Code::from_name(&code.as_str().to_lowercase()), Some(*code));
        }
        assert!(pages.is_empty(), "pages without a code: {pages:?}");
    }

    #[test]
    fn each_error_line_of_a_shipped_binary_has_a_code() {
        let mut without = Vec::new();
        for folder in ["api/src", "common/src", "consumers/src", "taskctl/src"] {
            visit(&root().join(folder), &mut |path, text| {
                for (at, _) in text.match_indices(concat!("log::", "error!(")) {
                    let call = text.get(at..).and_then(|rest| rest.split(");").next()).unwrap_or_default();
                    if !call.contains("Code::") && !call.contains(".code()") {
                        without.push(format!("{}: {call}", path.display()));
                    }
                }
            });
        }
        assert!(without.is_empty(), "error lines without a code: {without:#?}");
    }

    #[test]
    fn a_line_has_its_code_once() {
        let code = Code::KafkaTls;
        assert_eq!(code.after("no TLS"), "no TLS [TE0520]");
        assert_eq!(code.after(code.after("no TLS")), "no TLS [TE0520]");
    }

    fn visit(folder: &Path, look: &mut impl FnMut(&Path, &str)) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                visit(&path, look);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                look(&path, &fs::read_to_string(&path).unwrap());
            }
        }
    }
}
