//! Query strings: `name=value` pairs, form-encoded, each name once.

use super::problem::{FieldError, Problem};

/// The pairs of the query string, decoded. 422 where it is not encoded well, or a name is given twice: to take
/// one of the two would be to drop the other silently.
pub(super) fn parse(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut errors: Vec<FieldError> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (raw_name, raw_value) = pair.split_once('=').unwrap_or((pair, ""));
        let (Some(name), Some(value)) = (decode(raw_name), decode(raw_value)) else {
            let field = decode(raw_name).unwrap_or_else(|| raw_name.to_owned());
            errors.push(FieldError::new(&field, "is not percent-encoded UTF-8"));
            continue;
        };
        if pairs.iter().any(|(known, _)| *known == name) {
            errors.push(FieldError::new(&name, "is given more than once"));
            continue;
        }
        pairs.push((name, value));
    }
    if errors.is_empty() { Ok(pairs) } else { Err(Problem::fields(errors)) }
}

/// For a call that has no parameters: 422 for any.
pub(super) fn none(query: &str) -> Result<(), Problem> {
    let unknown: Vec<FieldError> =
        parse(query)?.iter().map(|(name, _)| FieldError::new(name, "unknown parameter")).collect();
    if unknown.is_empty() { Ok(()) } else { Err(Problem::fields(unknown)) }
}

/// Form encoding: a plus sign is a space. `None` where a percent sign is not followed by two hexadecimal
/// digits, or what comes out is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || char::from(rest.next()?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                digit()? << 4 | digit()?
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let pairs = |query: &str| parse(query).unwrap();
        let owned = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
        };
        assert!(pairs("").is_empty());
        assert!(pairs("&&").is_empty());
        assert_eq!(
            pairs("a=1&b=%C3%bc+%2B&c&d=x=y"),
            owned(&[("a", "1"), ("b", "ü +"), ("c", ""), ("d", "x=y")])
        );
        assert!(none("&").is_ok() && none("_=1").is_err());
    }

    #[test]
    fn what_is_ambiguous_or_broken_is_refused() {
        for wrong in
            ["a=1&a=1", "a=&a=2", "a&%61", "a=%", "a=%4", "a=%zz", "a=%+1", "a=%ff", "%ff=1", "a=%ed%a0%80"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
