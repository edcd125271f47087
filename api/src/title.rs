//! What a task's title may be.
//!
//! 1. White space (Unicode's `White_Space`) at both ends is cut off.
//! 2. What is left has 1 to [`MAX_TITLE`] characters (Unicode scalar values), and
//! 3. at least one of them is visible: a letter, a number, a punctuation mark or a symbol (general category
//!    L, N, P or S) that is not `Default_Ignorable_Code_Point`, as Hangul fillers are, and not one of the
//!    few symbols that are blank by design. So zero-width characters, byte order marks, variation selectors,
//!    combining marks without a base, private and unassigned characters alone do not make a title.
//! 4. None of them is what a log line escapes ([`is_control`]): control characters, line and paragraph
//!    separators, and the marks that embed, override or isolate a direction.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory, GeneralCategoryGroup};
use icu_properties::{CodePointMapData, CodePointSetData};
use serde::Serialize;
use task_events::escape::is_control;

/// Longest title, in characters, after trimming.
pub const MAX_TITLE: usize = 500;

/// Letters and symbols that show nothing: Braille pattern blank, ideographic half fill space, object
/// replacement character, Egyptian full and half blank, musical symbol null notehead.
const BLANK: [char; 6] = ['\u{2800}', '\u{303f}', '\u{fffc}', '\u{13441}', '\u{13442}', '\u{1d159}'];

/// A valid title, trimmed: there is no other way to have one than [`parse`](Self::parse).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Title(String);

impl Title {
    /// The title in the text, or what is wrong with it, for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let title = text.trim();
        if title.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if title.chars().count() > MAX_TITLE {
            return Err(format!("must be at most {MAX_TITLE} characters"));
        }
        if let Some(control) = title.chars().find(|c| is_control(*c)) {
            return Err(format!("must not contain control characters, as U+{:04X}", u32::from(control)));
        }
        if !title.chars().any(is_visible) {
            return Err("must contain at least one visible character".to_owned());
        }
        Ok(Self(title.to_owned()))
    }

    /// The title as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_visible(c: char) -> bool {
    const GRAPHIC: GeneralCategoryGroup = GeneralCategoryGroup::Letter
        .union(GeneralCategoryGroup::Number)
        .union(GeneralCategoryGroup::Punctuation)
        .union(GeneralCategoryGroup::Symbol);
    // The common case, without a look at the tables.
    c.is_ascii_graphic()
        || (GRAPHIC.contains(CodePointMapData::<GeneralCategory>::new().get(c))
            && !CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            && !BLANK.contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, String> {
        Title::parse(text).map(|title| title.as_str().to_owned())
    }

    #[test]
    fn a_title_shows_something() {
        for visible in
            ["t", "ß", "漢", "한", "ไ", "7", "٣", "!", "—", "$", "✓", "😀", "👩‍🚀", "❤\u{fe0f}", "e\u{301}"]
        {
            assert_eq!(parse(visible).as_deref(), Ok(visible));
            let amid = format!("\u{200b}{visible}\u{200d}");
            assert_eq!(parse(&amid).as_deref(), Ok(amid.as_str()), "{visible}");
        }
        for invisible in [
            "\u{200b}",
            "\u{200c}",
            "\u{200d}",
            "\u{200e}",
            "\u{200f}",
            "\u{61c}",
            "\u{ad}",
            "\u{2060}",
            "\u{feff}",
            "\u{34f}",
            "\u{180e}",
            "\u{115f}",
            "\u{1160}",
            "\u{3164}",
            "\u{ffa0}",
            "\u{2800}",
            "\u{301}",
            "\u{903}",
            "\u{20dd}",
            "\u{fe0f}",
            "\u{e0100}",
            "\u{e0020}",
            "\u{1d159}",
            "\u{fffc}",
            "\u{fff9}",
            "\u{e000}",
            "\u{378}",
            "\u{ffff}",
            "\u{10ffff}",
            "\u{17b4}",
            "\u{1d173}",
            "\u{13441}",
        ] {
            for title in [invisible.to_owned(), invisible.repeat(3), format!("\u{200b} {invisible} \u{2800}")]
            {
                assert!(parse(&title).unwrap_err().contains("visible"), "{}", title.escape_unicode());
            }
        }
    }

    #[test]
    fn a_title_has_no_control_characters() {
        for control in [
            '\0', '\t', '\n', '\u{1b}', '\u{7f}', '\u{80}', '\u{85}', '\u{9f}', '\u{2028}', '\u{202e}',
            '\u{2066}',
        ] {
            let error = parse(&format!("a{control}b")).unwrap_err();
            assert!(error.ends_with(&format!("U+{:04X}", u32::from(control))), "{error}");
        }
        // White space at the ends is no part of the title.
        assert_eq!(parse("\u{2028}\t a \u{85}\n").as_deref(), Ok("a"));
    }
}
