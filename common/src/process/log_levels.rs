//! Which lines are logged: a level for all, and others for single targets.

use std::fmt;
use std::str::FromStr;

use log::{Level, LevelFilter};

/// `LEVEL`, or with levels of their own for modules: `info,task_api::relay=debug,rskafka=warn`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLevels {
    /// Of what no target names.
    pub default: LevelFilter,
    /// Modules and theirs; the longest that fits counts.
    pub targets: Vec<(String, LevelFilter)>,
}

impl LogLevels {
    /// Whether a line of that level and target is logged.
    pub fn allow(&self, level: Level, target: &str) -> bool {
        let of_target = self.targets.iter().filter(|(module, _)| is_within(target, module));
        let of_target = of_target.max_by_key(|(module, _)| module.len());
        level <= of_target.map_or(self.default, |(_, level)| *level)
    }
}

/// Whether the target is the module or one below it.
fn is_within(target: &str, module: &str) -> bool {
    target.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// A value that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoLogLevels(String);

impl fmt::Display for NoLogLevels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoLogLevels {}

impl FromStr for LogLevels {
    type Err = NoLogLevels;

    fn from_str(text: &str) -> Result<Self, NoLogLevels> {
        let level = |text: &str| {
            let wrong = || {
                NoLogLevels(format!("'{text}' is not a log level: off, error, warn, info, debug or trace"))
            };
            text.trim().parse::<LevelFilter>().map_err(|_| wrong())
        };
        let (mut default, mut targets) = (None, Vec::<(String, LevelFilter)>::new());
        for part in text.split(',') {
            let twice = |what: &str| NoLogLevels(format!("'{text}' gives {what} more than once"));
            match part.split_once('=') {
                None => {
                    if default.replace(level(part)?).is_some() {
                        return Err(twice("the level of all targets"));
                    }
                }
                Some((module, of_module)) => {
                    let module = module.trim();
                    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
                    if module.is_empty() || !module.chars().all(is_name) {
                        return Err(NoLogLevels(format!(
                            "'{module}' is not a target: a crate or a module of one, as task_api::relay"
                        )));
                    }
                    if targets.iter().any(|(known, _)| known == module) {
                        return Err(twice(&format!("the level of {module}")));
                    }
                    targets.push((module.to_owned(), level(of_module)?));
                }
            }
        }
        Ok(Self { default: default.unwrap_or(LevelFilter::Info), targets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_target_that_fits_counts() {
        let levels: LogLevels = "warn, task_api=info,task_api::relay = debug,rskafka=off".parse().unwrap();
        for (target, level) in [
            ("consumers::audit", LevelFilter::Warn),
            ("task_api", LevelFilter::Info),
            ("task_api::http", LevelFilter::Info),
            ("task_api::relay", LevelFilter::Debug),
            ("task_api::relay::lane", LevelFilter::Debug),
            ("task_api::relayed", LevelFilter::Info),
            ("rskafka::client", LevelFilter::Off),
        ] {
            for line in Level::iter() {
                assert_eq!(levels.allow(line, target), line <= level, "{target} {line}");
            }
        }
        assert_eq!("rskafka=debug".parse::<LogLevels>().unwrap().default, LevelFilter::Info);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("loud", "'loud' is not a log level"),
            ("", "'' is not a log level"),
            ("info,", "'' is not a log level"),
            ("info,task_api=loud", "'loud' is not a log level"),
            ("info,task_api=", "'' is not a log level"),
            ("info,debug", "more than once"),
            ("a=info,a=debug", "the level of a more than once"),
            ("=debug", "'' is not a target"),
            ("task api=debug", "'task api' is not a target"),
        ] {
            let error = text.parse::<LogLevels>().unwrap_err().to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
