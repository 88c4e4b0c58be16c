//! Reading JSON objects the way Go reads them, which is the way every runtime was tested.
//!
//! Go matches member names without regard to case, and takes `null` for "not given". containerd relies on
//! the first (`"HostPort"`) and CRI-O on the second. Both apply only where a struct names its members:
//! subtrees nobody describes (`args`, unknown keys) stay as they are.

use std::vec;

use serde::{
    de::{
        DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess,
        Unexpected, Visitor, value::SeqDeserializer,
    },
    forward_to_deserialize_any,
};
use serde_json::{Map, Value};

/// Reads `value` as a `T`, matching member names of structs case-insensitively at every depth.
///
/// The exact spelling wins over others. Errors name the member they happened in.
pub fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
    T::deserialize(Lenient(value))
}

/// The member called `key`, in whatever case; the exact spelling wins. `null` counts as present.
pub fn get<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).or_else(|| {
        object
            .iter()
            .find_map(|(name, value)| name.eq_ignore_ascii_case(key).then_some(value))
    })
}

struct Lenient(Value);

impl<'de> Deserializer<'de> for Lenient {
    type Error = serde_json::Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(object) => visitor.visit_map(Members::of_struct(object, fields)),
            // serde would take an array as the members in order; in JSON that is never meant.
            other => Err(Self::Error::invalid_type(unexpected(&other), &"an object")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(object) => visitor.visit_map(Members::all(object)),
            other => other.deserialize_map(visitor),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Array(items) => {
                visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Lenient)))
            }
            other => other.deserialize_seq(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        self.0.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct tuple tuple_struct identifier ignored_any
    }
}

impl IntoDeserializer<'_, serde_json::Error> for Lenient {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// The members of one object, handed to serde one by one.
struct Members {
    rest: vec::IntoIter<(String, Value)>,
    current: Option<(String, Value)>,
}

impl Members {
    fn all(object: Map<String, Value>) -> Self {
        let members: Vec<_> = object.into_iter().collect();
        Members {
            rest: members.into_iter(),
            current: None,
        }
    }

    /// Each field at most once, under its own name; no nulls, nothing the struct does not know.
    fn of_struct(mut object: Map<String, Value>, fields: &[&str]) -> Self {
        let mut members = Vec::new();
        for field in fields {
            let key = if object.contains_key(*field) {
                Some((*field).to_owned())
            } else {
                let mut keys = object.keys();
                keys.find(|key| key.eq_ignore_ascii_case(field)).cloned()
            };
            match key.and_then(|key| object.remove(&key)) {
                None | Some(Value::Null) => {}
                Some(value) => members.push(((*field).to_owned(), value)),
            }
        }
        Members {
            rest: members.into_iter(),
            current: None,
        }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = serde_json::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Self::Error> {
        self.current = self.rest.next();
        match &self.current {
            None => Ok(None),
            Some((key, _)) => seed.deserialize(key.as_str().into_deserializer()).map(Some),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, Self::Error> {
        let (key, value) = self
            .current
            .take()
            .ok_or_else(|| Self::Error::custom("a value was asked for before its key"))?;
        seed.deserialize(Lenient(value))
            .map_err(|cause| Self::Error::custom(format_args!("`{key}`: {cause}")))
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(flag) => Unexpected::Bool(*flag),
        Value::Number(_) => Unexpected::Other("a number"),
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use serde::Deserialize;
    use serde_json::json;
    use std::collections::BTreeMap;

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Outer {
        ip_masq: bool,
        mtu: Option<u32>,
        inner: Inner,
        list: Vec<Inner>,
        named: BTreeMap<String, Inner>,
        args: Value,
    }

    #[derive(Deserialize, Debug, PartialEq, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Inner {
        host_port: u16,
    }

    fn read(value: Value) -> Result<Outer, String> {
        from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn any_case_at_any_depth() {
        let outer = read(json!({
            "IPMASQ": true, "Inner": {"HostPort": 1}, "LIST": [{"hostport": 2}],
            "named": {"KEEP": {"HOSTPORT": 3}}, "unknown": {"A": 1},
        }));
        let outer = outer.unwrap();
        assert!(outer.ip_masq);
        assert_eq!(outer.inner.host_port, 1);
        assert_eq!(outer.list, [Inner { host_port: 2 }]);
        assert_eq!(outer.named["KEEP"], Inner { host_port: 3 });
    }

    #[test]
    fn the_exact_spelling_wins() {
        let outer = read(json!({"MTU": 1, "mtu": 2, "Mtu": 3})).unwrap();
        assert_eq!(outer.mtu, Some(2));
        let object = json!({"MTU": 1, "mtu": 2});
        assert_eq!(get(object.as_object().unwrap(), "mtu"), Some(&json!(2)));
        assert_eq!(get(object.as_object().unwrap(), "Mtu"), Some(&json!(1)));
    }

    #[test]
    fn null_is_absent_and_undescribed_subtrees_are_untouched() {
        let args = json!({"CNI": {"IPs": null}});
        let outer = read(json!({"mtu": null, "list": null, "inner": null, "args": args})).unwrap();
        assert_eq!(
            outer,
            Outer {
                args,
                ..Outer::default()
            }
        );
    }

    #[test]
    fn errors_name_the_member() {
        let wrong = json!({"inner": {"HostPort": "x"}});
        assert_eq!(
            read(wrong).unwrap_err(),
            r#"`inner`: `hostPort`: invalid type: string "x", expected u16"#
        );
        assert!(
            read(json!({"inner": []}))
                .unwrap_err()
                .contains("expected an object")
        );
        assert!(read(json!([])).is_err());
    }
}
