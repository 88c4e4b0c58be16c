//! JSON from outside, with a bound on what it may become: a value takes 32 bytes and more where its text takes two.
//!
//! Depth is bounded by `serde_json` itself (128).

use serde::de::{DeserializeOwned, Error as _};

/// Values in one document: a list of 16,000 addresses has three for each.
pub const MAX_VALUES: usize = 1 << 17;

/// Reads a document of at most [`MAX_VALUES`] values.
///
/// # Errors
/// It is not JSON, not a `T`, or has more values.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    if exceeds(bytes, MAX_VALUES) {
        return Err(serde_json::Error::custom(format_args!(
            "it has more than {MAX_VALUES} values"
        )));
    }
    serde_json::from_slice(bytes)
}

/// Whether a document has more values than that. Each one but the first has `,`, `[`, `{` or `:` before it, outside of texts.
fn exceeds(bytes: &[u8], limit: usize) -> bool {
    let (mut values, mut in_text, mut is_escaped) = (0, false, false);
    for byte in bytes {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' | b':' if !in_text => values += 1,
            _ => {}
        }
        if values > limit {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_stands_in_texts_is_no_value() {
        assert!(!exceeds(br#"{"a\",[,[,[,[": "\\"}"#, 2));
        assert!(exceeds(br#"{"\\": [1, 2, 3]}"#, 4));
        let annotations = format!(r#"{{"a": "{}"}}"#, "[,{".repeat(1 << 20));
        assert!(from_slice::<Value>(annotations.as_bytes()).is_ok());
    }

    #[test]
    fn a_document_has_so_many_values_and_no_more() {
        let list = |length: usize| format!("[{}0]", "0,".repeat(length - 1));
        assert!(from_slice::<Value>(list(MAX_VALUES - 1).as_bytes()).is_ok());
        let error = from_slice::<Value>(list(MAX_VALUES + 1).as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("more than 131072 values"),
            "{error}"
        );
        let objects = format!("[{}{{}}]", r#"{"a":[]},"#.repeat(MAX_VALUES));
        assert!(from_slice::<Value>(objects.as_bytes()).is_err());
    }
}
