//! Text that a pod, a runtime, a file or a remote chose, made fit to be shown.
//!
//! A terminal obeys what it is sent: a pod's name may clear the screen, answer for the operator or look like another
//! line of ours. JSON has its own escapes and stays exact.

use std::{borrow::Cow, fmt::Write as _};

/// Bytes of one foreign text in a message; a digest has 64, a path that somebody can use 4,096.
const LONGEST: usize = 256;

/// The text in one line that a terminal only shows: whatever it would obey is escaped as Rust writes it (`\n`, `\u{1b}`).
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |character| {
        is_obeyed(character) || is_line_end(character)
    })
}

/// The same for text of several lines, which stay lines.
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| is_obeyed(character) && character != '\n')
}

/// As [`line`], of a text that may have any length: its beginning, and how long it was.
pub fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= LONGEST {
        return line(text);
    }
    let end = text.floor_char_boundary(LONGEST);
    Cow::Owned(format!("{}… ({} bytes)", line(&text[..end]), text.len()))
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if is_escaped(character) {
            // Writing to a String cannot fail.
            let _ = write!(shown, "{}", character.escape_default());
        } else {
            shown.push(character);
        }
    }
    Cow::Owned(shown)
}

/// Controls (C0, DEL and C1, whose U+009B begins a sequence as ESC [ does), and what turns the direction of writing round.
fn is_obeyed(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{061c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\n' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        let text = "web\u{1b}[2J\u{9b}31m\r\n\t\u{7f}\u{202e}gnp\u{2028}é";
        assert_eq!(
            line(text),
            r"web\u{1b}[2J\u{9b}31m\r\n\t\u{7f}\u{202e}gnp\u{2028}é"
        );
        assert_eq!(lines("a\u{7}\nb"), "a\\u{7}\nb");
    }

    #[test]
    fn other_text_is_as_it_was() {
        for text in ["", "kube-system/web-0", "ü \"x\" \\n", "日本"] {
            assert!(
                matches!(line(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
            assert!(
                matches!(excerpt(text), Cow::Borrowed(same) if same == text),
                "{text}"
            );
        }
    }

    #[test]
    fn an_excerpt_has_a_limit() {
        // 255 bytes, and a character of three: it is not cut through.
        let text = "a".repeat(255) + "日" + &"b".repeat(1 << 20);
        let shown = excerpt(&text);
        assert_eq!(shown, format!("{}… (1048834 bytes)", "a".repeat(255)));
    }
}
