//! A list of CNI plugins, and what each of them gets on standard input, down to the bytes that libcni sends.
//!
//! What a hand-made caller forgets: keys sorted and compact, nothing behind the last brace, `capabilities` kept, `runtimeConfig` only
//! for what a plugin declares, `prevResult` on DEL only from 0.4.0 on.

use serde_json::{Map, Value};

use crate::libcni::Attachment;

/// A network configuration list, as read.
#[derive(Debug, Clone)]
pub struct Conflist {
    /// The network's name.
    pub name: String,
    /// The version every plugin of the list is called with; 0.1.0 when the file has none, as libcni has it.
    pub cni_version: String,
    plugins: Vec<Map<String, Value>>,
}

/// The text is not a network configuration list that can be used.
#[derive(Debug, thiserror::Error)]
#[error("network configuration list: {0}")]
pub struct Invalid(pub(crate) String);

impl Conflist {
    /// `conf/10-azure.conflist`, byte for byte.
    pub const SHIPPED: &str = include_str!("../../conf/10-azure.conflist");

    /// The list as shipped.
    ///
    /// # Panics
    ///
    /// Not as long as the unit tests of this module pass: they read the same constant.
    #[expect(
        clippy::expect_used,
        reason = "a constant of this repository, parsed by a unit test"
    )]
    pub fn shipped() -> Self {
        Self::parse(Self::SHIPPED).expect("the shipped conflist is valid")
    }

    /// Reads a list.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid = |why: &str| Invalid(why.to_owned());
        let list: Value = serde_json::from_str(text).map_err(|error| Invalid(error.to_string()))?;
        let plugins = list["plugins"]
            .as_array()
            .ok_or_else(|| invalid("no array `plugins`"))?;
        let plugins: Option<Vec<_>> = plugins
            .iter()
            .map(|plugin| plugin.as_object().cloned())
            .collect();
        let plugins = plugins.ok_or_else(|| invalid("a plugin is not an object"))?;
        if plugins.is_empty()
            || plugins
                .iter()
                .any(|plugin| !plugin.get("type").is_some_and(Value::is_string))
        {
            return Err(invalid("no plugin, or one without `type`"));
        }
        let name = list["name"]
            .as_str()
            .ok_or_else(|| invalid("no `name`"))?
            .to_owned();
        let cni_version = list["cniVersion"].as_str().unwrap_or("0.1.0").to_owned();
        Ok(Self {
            name,
            cni_version,
            plugins,
        })
    }

    /// The list at another version of the specification.
    #[must_use]
    pub fn at_version(self, cni_version: &str) -> Self {
        Self {
            cni_version: cni_version.to_owned(),
            ..self
        }
    }

    /// The list with one more key in the object of every plugin of this type.
    #[must_use]
    pub fn with_setting(mut self, plugin: &str, key: &str, value: &Value) -> Self {
        for object in self
            .plugins
            .iter_mut()
            .filter(|object| object["type"] == plugin)
        {
            object.insert(key.to_owned(), value.clone());
        }
        self
    }

    /// The list as a file.
    pub fn to_json(&self) -> String {
        let list = serde_json::json!({ "cniVersion": self.cni_version, "name": self.name, "plugins": self.plugins });
        format!("{list:#}\n")
    }

    /// The plugins' own objects, in order.
    pub(crate) fn plugins(&self) -> &[Map<String, Value>] {
        &self.plugins
    }

    /// Standard input of one plugin of the list.
    pub(crate) fn stdin(
        &self,
        plugin: &Map<String, Value>,
        attachment: &Attachment,
        prev_result: Option<&Value>,
    ) -> String {
        let mut config = plugin.clone();
        config.insert("name".into(), self.name.clone().into());
        config.insert("cniVersion".into(), self.cni_version.clone().into());
        let declared = |capability: &str| {
            plugin
                .get("capabilities")
                .is_some_and(|declared| declared[capability] == true)
        };
        let runtime_config: Map<_, _> = attachment
            .capability_args
            .clone()
            .into_iter()
            .filter(|(capability, _)| declared(capability))
            .collect();
        if !runtime_config.is_empty() {
            config.insert("runtimeConfig".into(), runtime_config.into());
        }
        if let Some(prev_result) = prev_result {
            config.insert("prevResult".into(), prev_result.clone());
        }
        let mut config = Value::from(config);
        // Does nothing unless some crate of the build asks serde_json to keep the order of insertion.
        config.sort_all_objects();
        config.to_string()
    }

    /// libcni passes `prevResult` to DEL, and knows CHECK, from this version on.
    pub(crate) fn since_0_4_0(&self) -> bool {
        let mut parts = self
            .cni_version
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next(), parts.next()) >= (Some(0), Some(4))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with_ports() -> Attachment {
        let ports = json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }]);
        Attachment {
            capability_args: Map::from_iter([("portMappings".to_owned(), ports)]),
            ..Attachment::default()
        }
    }

    /// The form recorded from containerd: one line, sorted, nothing behind the last brace.
    #[test]
    fn first_plugin_gets_its_own_object_with_name_and_version() {
        let list = Conflist::shipped();
        let expected = concat!(
            r#"{"bridge":"azure0","capabilities":{"portMappings":true},"cniVersion":"0.3.0","#,
            r#""ipam":{"type":"azure-vnet-ipam"},"mode":"bridge","name":"azure","#,
            r#""runtimeConfig":{"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]},"type":"azure-vnet"}"#,
        );
        assert_eq!(list.stdin(&list.plugins[0], &with_ports(), None), expected);
    }

    #[test]
    fn later_plugin_gets_its_capability_and_the_result_so_far() {
        let list = Conflist::shipped();
        let expected = concat!(
            r#"{"capabilities":{"portMappings":true},"cniVersion":"0.3.0","name":"azure","prevResult":{"a":1,"b":2},"#,
            r#""runtimeConfig":{"portMappings":[{"containerPort":80,"hostPort":8080,"protocol":"tcp"}]},"snat":true,"type":"portmap"}"#,
        );
        assert_eq!(
            list.stdin(
                &list.plugins[1],
                &with_ports(),
                Some(&json!({ "b": 2, "a": 1 }))
            ),
            expected
        );
    }

    #[test]
    fn versions_that_send_prev_result_on_del() {
        let since = |version: &str| Conflist::shipped().at_version(version).since_0_4_0();
        assert!(["0.4.0", "1.0.0", "1.1.0"].into_iter().all(since));
        assert!(!["0.1.0", "0.2.0", "0.3.0", "0.3.1"].into_iter().any(since));
    }

    #[test]
    fn lists_without_plugins_are_refused() {
        for text in [
            "{}",
            r#"{"name":"n","plugins":[]}"#,
            r#"{"name":"n","plugins":[{}]}"#,
            r#"{"plugins":[{"type":"t"}]}"#,
        ] {
            assert!(matches!(Conflist::parse(text), Err(Invalid(_))), "{text}");
        }
    }
}
