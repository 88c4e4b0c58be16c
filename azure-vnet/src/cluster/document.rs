//! A place in a JSON document that knows its path, and notes what is wrong there.
//!
//! Keys are found in any case, as Go's decoder, which the engine is built with, finds them.

use std::cell::RefCell;
use std::fmt::Display;
use std::str::FromStr;

use serde_json::{Map, Value};

use super::Problem;

/// Where the faults of one document are gathered.
#[derive(Default)]
pub struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// What was found.
    pub fn into_vec(self) -> Vec<Problem> {
        self.0.into_inner()
    }
}

/// A value, and where it is.
#[derive(Clone)]
pub struct Place<'a> {
    path: String,
    value: Option<&'a Value>,
    problems: &'a Problems,
}

impl<'a> Place<'a> {
    /// The whole document.
    pub fn root(value: &'a Value, problems: &'a Problems) -> Self {
        Self {
            path: "$".to_owned(),
            value: Some(value),
            problems,
        }
    }

    /// Whether there is something; `null` is nothing.
    pub fn is_there(&self) -> bool {
        self.value.is_some()
    }

    /// Whether it is the empty text, which is how a Go program writes that nothing is given.
    pub fn is_empty_text(&self) -> bool {
        self.value.and_then(Value::as_str) == Some("")
    }

    /// Notes a fault here.
    pub fn wrong(&self, what: impl Display) {
        self.problems.0.borrow_mut().push(Problem {
            path: self.path.clone(),
            what: what.to_string(),
        });
    }

    /// An object that has to be here; without it nothing below is looked for.
    pub fn object(&self, what: &str) -> Option<Object<'a>> {
        match self.value {
            Some(Value::Object(object)) => Some(Object {
                place: self.clone(),
                object,
            }),
            Some(other) => {
                self.wrong(format_args!(
                    "{} where {what} belongs: an object",
                    kind(other)
                ));
                None
            }
            None => {
                self.wrong(format_args!("{what} is missing"));
                None
            }
        }
    }

    /// The elements of a list that has to be here.
    pub fn list(&self, what: &str) -> Option<Vec<Place<'a>>> {
        match self.value {
            Some(Value::Array(elements)) => {
                let place = |(index, value)| Place {
                    path: format!("{}[{index}]", self.path),
                    value: Some(value),
                    problems: self.problems,
                };
                Some(elements.iter().enumerate().map(place).collect())
            }
            Some(other) => {
                self.wrong(format_args!("{} where {what} belong: a list", kind(other)));
                None
            }
            None => {
                self.wrong(format_args!("{what} are missing"));
                None
            }
        }
    }

    /// A text that has to be here; `example` is one that would do.
    pub fn text(&self, what: &str, example: &str) -> Option<&'a str> {
        match self.value {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim()),
            Some(Value::String(_)) | None => {
                self.wrong(format_args!("{what} is missing, for example \"{example}\""));
                None
            }
            Some(other) => {
                let kind = kind(other);
                self.wrong(format_args!(
                    "{kind} where {what} belongs, for example \"{example}\""
                ));
                None
            }
        }
    }

    /// A text that means a `T`.
    pub fn parsed<T: FromStr>(&self, what: &str, example: &str) -> Option<T> {
        let text = self.text(what, example)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(format_args!(
                "\"{text}\" is not {what}, for example \"{example}\""
            ));
        }
        parsed
    }

    /// A number from `least` to `most`, if one is given; kubelet's settings are texts, so `"30"` is one, too.
    pub fn number(&self, what: &str, least: u16, most: u16) -> Option<u16> {
        let value = self.value?;
        let number = match value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let fitting = number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| (least..=most).contains(number));
        if fitting.is_none() {
            self.wrong(format_args!("{value} is not {what}: {least} to {most}"));
        }
        fitting
    }
}

/// An object, and where it is.
pub struct Object<'a> {
    place: Place<'a>,
    object: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    /// What stands under `key`, in whatever case it is written.
    pub fn at(&self, key: &str) -> Place<'a> {
        let mut found = self
            .object
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(key));
        let first = found.next();
        let place = Place {
            path: format!(
                "{}.{}",
                self.place.path,
                first.map_or(key, |(name, _)| name)
            ),
            value: first
                .map(|(_, value)| value)
                .filter(|value| !value.is_null()),
            problems: self.place.problems,
        };
        if let Some((name, _)) = found.next() {
            place.wrong(format_args!("given twice, also as \"{name}\": remove one"));
        }
        place
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
