//! Objects that are whole in JSON that is not.

use serde::de::DeserializeOwned;

/// No object that is looked for is longer. It also bounds the time for a file of nothing but braces.
const MAX_OBJECT: usize = 8 << 10;

/// Every object of form `T` in `bytes`, at whatever depth, however broken the rest is. An object of `T` must have
/// members that tell it from others.
pub fn salvage<T: DeserializeOwned>(bytes: &[u8]) -> Vec<T> {
    let starts = (0..bytes.len()).filter(|start| bytes[*start] == b'{');
    starts
        .filter_map(|start| {
            let end = bytes.len().min(start + MAX_OBJECT);
            let mut objects = serde_json::Deserializer::from_slice(&bytes[start..end]).into_iter();
            objects.next()?.ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Pair {
        a: u8,
        b: String,
    }

    fn found(text: &[u8]) -> Vec<u8> {
        salvage::<Pair>(text)
            .into_iter()
            .map(|pair| pair.a)
            .collect()
    }

    #[test]
    fn what_is_whole_is_found_at_any_depth() {
        let text =
            br#"{"x":[{"a":1,"b":""},{"a":2},{"y":{"b":"{","a":3,"c":[]}},{"a":4,"b":"cut o"#;
        assert_eq!(found(text), [1, 3]);
        assert_eq!(found(&[b"\xff\0 ", &text[..], b"\xff"].concat()), [1, 3]);
    }

    #[test]
    fn nonsense_has_nothing_and_takes_no_time() {
        for text in ["", "{", "}{", "[]", "7"] {
            assert_eq!(found(text.as_bytes()), [] as [u8; 0], "{text}");
        }
        for open in ["{\"a\":", "{\"x\":"] {
            assert_eq!(found(open.repeat(3_000).as_bytes()), [] as [u8; 0]);
        }
    }
}
