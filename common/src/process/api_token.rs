//! The token of a program that calls the Task API.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

/// A token, which no output shows.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiToken(String);

impl ApiToken {
    /// The value of an `Authorization` header.
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(…)")
    }
}

/// The token of this program's calls.
#[derive(Debug, Clone, Default, Args)]
pub struct ApiTokenArgs {
    /// Token for calls of the Task API, where it asks for one
    #[arg(long, env = "API_TOKEN", hide_env_values = true, value_parser = token)]
    api_token: Option<ApiToken>,
    /// File that holds the token
    #[arg(long, env = "API_TOKEN_FILE", value_name = "FILE", conflicts_with = "api_token")]
    api_token_file: Option<PathBuf>,
}

impl ApiTokenArgs {
    /// The token, if there is one. The error is one line that names the file. Blocks for a moment.
    pub fn token(&self) -> Result<Option<ApiToken>, String> {
        let token = match (&self.api_token, &self.api_token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(path)) => Some(token_in_file(path)?),
            (None, None) => None,
        };
        // An empty variable stands for none.
        Ok(token.filter(|token| !token.0.is_empty()))
    }
}

/// A value parser that refuses nothing, since an error would show the value: what no header may hold is left out, and
/// such a token is one that the API does not know.
fn token(text: &str) -> Result<ApiToken, Infallible> {
    Ok(ApiToken(text.chars().filter(char::is_ascii_graphic).collect()))
}

/// The first line of a file, which an editor may have ended.
fn token_in_file(path: &Path) -> Result<ApiToken, String> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| format!("API_TOKEN_FILE: {}: {error}", path.display()))?;
    let Ok(token) = token(text.lines().next().unwrap_or_default());
    Ok(token)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        api: ApiTokenArgs,
    }

    #[test]
    fn a_token_comes_from_the_variable_or_from_a_file_and_is_never_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "te_hush\n").unwrap();
        let path = file.path().to_str().unwrap();
        for args in [["x", "--api-token", "te_hush"], ["x", "--api-token-file", path]] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.api.token().unwrap().unwrap().authorization(), "Bearer te_hush");
            assert!(!format!("{cli:?}").contains("te_hush"));
        }
        assert!(Cli::try_parse_from(["x"]).unwrap().api.token().unwrap().is_none());
        assert!(Cli::try_parse_from(["x", "--api-token", ""]).unwrap().api.token().unwrap().is_none());
        assert!(Cli::try_parse_from(["x", "--api-token", "a", "--api-token-file", path]).is_err());
        let missing = Cli::try_parse_from(["x", "--api-token-file", "/missing"]).unwrap();
        assert!(missing.api.token().unwrap_err().starts_with("API_TOKEN_FILE: /missing: No such file"));
        let injected = Cli::try_parse_from(["x", "--api-token", "te\r\nX-Evil: 1"]).unwrap();
        assert_eq!(injected.api.token().unwrap().unwrap().authorization(), "Bearer teX-Evil:1");
    }
}
