//! What a failing DEL must not say.
//!
//! go-cni, and with it containerd, takes a DEL whose error contains "not found" for a success, and so one
//! with "no such file or directory" when `CNI_NETNS` is empty. It would never repeat the call, and what could
//! not be removed would stay for good. The words come from the kernel and from delegates, so they are
//! replaced in one place: where the error is printed.

use crate::error::CniError;

const REPLACEMENTS: [(&str, &str); 2] = [
    ("not found", "missing"),
    ("no such file or directory", "missing file or directory"),
];

/// The same error in words that make every runtime try again.
pub(crate) fn insistent(error: CniError) -> CniError {
    CniError {
        code: error.code,
        msg: reworded(error.msg),
        details: reworded(error.details),
    }
}

fn reworded(text: String) -> String {
    REPLACEMENTS
        .into_iter()
        .fold(text, |text, (words, instead)| {
            replace(&text, words, instead)
        })
}

/// Replaces `words`, which are lower-case ASCII, in whatever case they stand.
fn replace(text: &str, words: &str, instead: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut replaced = String::with_capacity(text.len());
    let mut end = 0;
    // ASCII lower case changes no length, so the positions are those of `text`.
    for (start, found) in lower.match_indices(words) {
        replaced.push_str(&text[end..start]);
        replaced.push_str(instead);
        end = start + found.len();
    }
    replaced.push_str(&text[end..]);
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_words_are_replaced_in_any_case() {
        let kernel = io::Error::from_raw_os_error(2).to_string();
        let error = CniError::new(123, "Link NOT FOUND, é, not found").with_details(kernel);
        let error = insistent(error);
        assert_eq!(
            (error.code, error.msg.as_str()),
            (123, "Link missing, é, missing")
        );
        assert_eq!(error.details, "missing file or directory (os error 2)");
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        let error = CniError::new(5, "cannot lock É").with_details("not  found; no such file");
        assert_eq!(insistent(error.clone()), error);
    }
}
