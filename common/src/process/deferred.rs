//! Arguments that name a file which cannot be used: who does not need them goes on without.

use clap::error::ErrorKind;
use clap::{ArgMatches, Args, Command, Error, FromArgMatches};

/// The arguments, or what is wrong with a file of theirs, in one line. Bad usage is an error all the same.
#[derive(Debug, Clone)]
pub struct Deferred<T>(pub Result<T, String>);

impl<T: FromArgMatches> FromArgMatches for Deferred<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        match T::from_arg_matches(matches) {
            Ok(args) => Ok(Self(Ok(args))),
            Err(error) if error.kind() == ErrorKind::Io => {
                let text = error.to_string();
                let line = text.lines().next().unwrap_or_default();
                Ok(Self(Err(line.strip_prefix("error: ").unwrap_or(line).to_owned())))
            }
            Err(error) => Err(error),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<T: Args> Args for Deferred<T> {
    fn augment_args(command: Command) -> Command {
        T::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::config::KafkaArgs;
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        kafka: Deferred<KafkaArgs>,
    }

    #[test]
    fn a_file_that_cannot_be_used_is_kept_for_later_and_bad_usage_is_not() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["x"], args].concat());
        assert!(parse(&[]).unwrap().kafka.0.is_ok());
        let why = parse(&["--kafka-ssl-ca-file", "/missing"]).unwrap().kafka.0.unwrap_err();
        assert!(why.starts_with("KAFKA_SSL_CA_FILE: /missing: No such file"), "{why}");
        assert!(parse(&["--kafka-sasl-password", "x"]).is_err());
    }
}
