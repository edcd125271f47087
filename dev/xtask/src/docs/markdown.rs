//! What a Markdown document names, with the lines where it does.

/// A document, read for what it names.
pub struct Document {
    /// In the order of the text, each with the number of its line.
    pub items: Vec<(usize, Item)>,
    /// The anchors of its headings, as GitHub makes them.
    pub anchors: Vec<String>,
}

/// Something that a document names.
#[derive(Debug, PartialEq, Eq)]
pub enum Item {
    /// The target of a link or an image.
    Link(String),
    /// The text of a code span, its line breaks as spaces.
    Code(String),
    /// A line of a `sh` or `console` block, those that end in a backslash joined.
    Command(String),
}

impl Document {
    /// Reads a document. Whatever its bytes are, it has some items, or none.
    pub fn parse(text: &str) -> Self {
        let mut document = Self { items: Vec::new(), anchors: Vec::new() };
        // The language of the block that is open, and the lines of the paragraph that is.
        let mut block: Option<String> = None;
        let (mut paragraph, mut paragraph_at) = (String::new(), 1);
        let mut command: Option<(usize, String)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            let fence = line.trim_start().strip_prefix("```");
            if let (Some(language), None) = (fence, &block) {
                document.read_paragraph(paragraph_at, &std::mem::take(&mut paragraph));
                block = Some(language.trim().to_owned());
            } else if fence.is_some() {
                block = None;
                document.items.extend(command.take().map(|(at, line)| (at, Item::Command(line))));
            } else if let Some(language) = &block {
                let (at, before) = command.take().unwrap_or((number, String::new()));
                let Some(line) = command_of(language, line, !before.is_empty()) else { continue };
                let joined = before + line.trim_end_matches('\\');
                if line.ends_with('\\') {
                    command = Some((at, joined));
                } else if !joined.trim().is_empty() {
                    document.items.push((at, Item::Command(joined)));
                }
            } else if line.trim().is_empty() || line.starts_with('#') {
                document.read_paragraph(paragraph_at, &std::mem::take(&mut paragraph));
                if let Some(heading) = line.strip_prefix('#') {
                    document.anchors.push(anchor(heading.trim_start_matches('#')));
                    document.read_paragraph(number, heading);
                }
            } else {
                if paragraph.is_empty() {
                    paragraph_at = number;
                }
                paragraph.push_str(line);
                paragraph.push('\n');
            }
        }
        document.read_paragraph(paragraph_at, &paragraph);
        document
    }

    /// Reads text outside of blocks: code spans, and links outside of them.
    fn read_paragraph(&mut self, first_line: usize, text: &str) {
        let mut rest = text;
        let line_at = |rest: &str| {
            let read = text.len() - rest.len();
            first_line + text.bytes().take(read).filter(|byte| *byte == b'\n').count()
        };
        while let Some(at) = rest.find(['`', ']', '"']) {
            let (_, found) = rest.split_at(at);
            rest = found;
            let line = line_at(rest);
            let ticks = &rest[..rest.len() - rest.trim_start_matches('`').len()];
            if !ticks.is_empty() {
                rest = rest.trim_start_matches('`');
                // Without an end it is text.
                let Some((code, after)) = rest.split_once(ticks) else { continue };
                let code = code.split_whitespace().collect::<Vec<_>>().join(" ");
                self.items.push((line, Item::Code(code)));
                rest = after;
            } else if let Some(after) = rest.strip_prefix("](") {
                let Some((target, after)) = after.split_once(')') else { continue };
                let target = target.split_whitespace().next().unwrap_or_default();
                self.items.push((line, Item::Link(target.to_owned())));
                rest = after;
            } else {
                let before = &text[..text.len() - rest.len()];
                let is_image = before.ends_with("src=") || before.ends_with("srcset=");
                let mut characters = rest.chars();
                characters.next();
                rest = characters.as_str();
                if is_image && let Some((target, after)) = rest.split_once('"') {
                    self.items.push((line, Item::Link(target.to_owned())));
                    rest = after;
                }
            }
        }
    }
}

/// What a line of a block asks a shell to do.
fn command_of<'a>(language: &str, line: &'a str, goes_on: bool) -> Option<&'a str> {
    match language {
        "sh" | "bash" => Some(line),
        "console" if goes_on => Some(line),
        "console" => line.strip_prefix("$ "),
        _ => None,
    }
}

/// A heading's anchor: in lower case, spaces as hyphens, without punctuation.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.trim().chars().filter(|c| kept(*c)).collect::<String>().to_lowercase().replace(' ', "-")
}
