//! Text and bytes from elsewhere, made safe to be shown on one line.

use std::borrow::Cow;

/// Escapes control characters, so that a title cannot forge a log line or drive a terminal.
pub fn escape_control(text: &str) -> Cow<'_, str> {
    if !has_control(text) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_control(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> String {
    bytes.into_iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Escapes what was appended to a line.
pub(crate) fn escape_from(line: &mut String, start: usize) {
    let appended = line.get(start..).unwrap_or_default();
    if has_control(appended) {
        let escaped = escape_control(appended).into_owned();
        line.truncate(start);
        line.push_str(&escaped);
    }
}

/// The start of a text, at most that many characters; an ellipsis shows that more follows.
pub fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

fn has_control(text: &str) -> bool {
    // Printable ASCII, as nearly all of it is, is seen to be that many bytes at once.
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (b' '..0x7f).contains(&byte));
    !is_plain && text.contains(is_control)
}

/// Control characters, and the marks that end a line or change its direction in a terminal.
pub fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("größer", 3), "grö…");
        assert_eq!(cut("größer", 6), "größer");
    }

    #[test]
    fn a_title_cannot_forge_a_line() {
        assert_eq!(escape_control("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert_eq!(escape_control("Größe – ok"), "Größe – ok");
        assert_eq!(escape_control("\u{202e}x\u{2028}"), "\\u{202e}x\\u{2028}");
    }
}
