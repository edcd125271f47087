//! A URL as the value of a flag or a variable, or in a file: one that is wrong is not shown, since there may be a password in it.

use std::ffi::OsStr;
use std::fs;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};

use crate::http_client::Url;

/// Parses the URL of that variable.
#[derive(Debug, Clone, Copy)]
pub struct UrlOf(pub &'static str);

impl TypedValueParser for UrlOf {
    type Value = Url;

    fn parse_ref(&self, _: &Command, _: Option<&Arg>, value: &OsStr) -> Result<Url, Error> {
        let parsed = value.to_str().ok_or_else(|| "it is no text".to_owned()).and_then(str::parse);
        parsed.map_err(|why| Error::raw(ErrorKind::ValueValidation, format!("{}: {why}\n", self.0)))
    }
}

/// Parses the URL in the file that this variable names.
#[derive(Debug, Clone, Copy)]
pub struct UrlInFile(pub &'static str);

impl TypedValueParser for UrlInFile {
    type Value = Url;

    fn parse_ref(&self, _: &Command, _: Option<&Arg>, path: &OsStr) -> Result<Url, Error> {
        let text = fs::read_to_string(path).map_err(|error| format!("the file cannot be read: {error}"));
        let parsed = text.and_then(|text| text.trim().parse());
        parsed.map_err(|why| {
            let path = path.to_string_lossy();
            Error::raw(ErrorKind::ValueValidation, format!("{} ({path}): {why}\n", self.0))
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::command_line::one_line;
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[arg(long, env = "HOOK_URL", value_parser = UrlOf("HOOK_URL"))]
        hook_url: Option<Url>,
        #[arg(long, env = "HOOK_URL_FILE", value_parser = UrlInFile("HOOK_URL_FILE"))]
        hook_url_file: Option<Url>,
    }

    #[test]
    fn a_url_that_is_wrong_is_not_shown() {
        let parse = |url: &str| Cli::try_parse_from(["x", "--hook-url", url]);
        assert_eq!(parse("https://a.example/b").unwrap().hook_url.unwrap().host(), "a.example");
        for wrong in ["https://me:hush@a.example/", "ftp://me:hush@a.example", "hush", "https://a b/hush", ""]
        {
            let error = parse(wrong).unwrap_err();
            let line = one_line(&error, &Cli::command());
            assert!(line.starts_with("error: HOOK_URL: ") || line.starts_with("HOOK_URL: "), "{line}");
            assert!(!line.contains("hush") && !line.contains('\n'), "{line}");
        }
    }
    #[test]
    fn a_url_in_a_file_is_read_without_its_line_end_and_not_shown_where_it_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("url");
        let parse = || Cli::try_parse_from(["x", "--hook-url-file", path.to_str().unwrap()]);
        let refused = || one_line(&parse().unwrap_err(), &Cli::command());
        assert!(refused().contains("HOOK_URL_FILE") && refused().contains("the file cannot be read"));
        for good in ["https://a.example/hush", "https://a.example/hush\n"] {
            fs::write(&path, good).unwrap();
            assert_eq!(parse().unwrap().hook_url_file.unwrap().host(), "a.example");
        }
        for wrong in
            ["https://me:hush@a.example/", "hush", "", "https://a.example/\nhttps://b.example/hush\n"]
        {
            fs::write(&path, wrong).unwrap();
            let line = refused();
            assert!(
                line.contains("HOOK_URL_FILE") && !line.contains("hush") && !line.contains('\n'),
                "{line}"
            );
        }
    }
}
