//! The resource ID of a subnet.

use std::fmt;
use std::str::FromStr;

/// `/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/virtualNetworks/V/subnets/N`. Azure compares these IDs without
/// regard to case.
#[derive(Clone, Debug)]
pub struct SubnetId {
    text: String,
    resource_group: String,
}

/// The parts that have a name of their own between them; `None` is the name.
const SHAPE: [Option<&str>; 10] = [
    Some("subscriptions"),
    None,
    Some("resourceGroups"),
    None,
    Some("providers"),
    Some("Microsoft.Network"),
    Some("virtualNetworks"),
    None,
    Some("subnets"),
    None,
];
const RESOURCE_GROUP: usize = 3;

impl SubnetId {
    /// The resource group of the virtual network.
    pub fn resource_group(&self) -> &str {
        &self.resource_group
    }

    /// The subnet's own name.
    pub fn name(&self) -> &str {
        self.text.rsplit('/').next().unwrap_or_default()
    }

    /// Whether both are of one virtual network.
    pub fn is_beside(&self, other: &Self) -> bool {
        let vnet = |id: &Self| {
            id.text
                .rsplit_once('/')
                .map(|(vnet, _)| vnet.to_lowercase())
        };
        vnet(self) == vnet(other)
    }
}

impl FromStr for SubnetId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let parts: Vec<&str> = text.strip_prefix('/').ok_or(())?.split('/').collect();
        let fits = |(part, shape): (&&str, Option<&str>)| match shape {
            Some(word) => part.eq_ignore_ascii_case(word),
            None => is_name(part),
        };
        if parts.len() != SHAPE.len() || !parts.iter().zip(SHAPE).all(fits) {
            return Err(());
        }
        Ok(Self {
            text: text.to_owned(),
            resource_group: parts[RESOURCE_GROUP].to_owned(),
        })
    }
}

/// Letters, digits and what Azure allows beside; the rest would have to be quoted in a script.
fn is_name(part: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.()".contains(&byte);
    !part.is_empty() && part.bytes().all(allowed)
}

impl PartialEq for SubnetId {
    fn eq(&self, other: &Self) -> bool {
        self.text.eq_ignore_ascii_case(&other.text)
    }
}

impl Eq for SubnetId {}

impl fmt::Display for SubnetId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}
