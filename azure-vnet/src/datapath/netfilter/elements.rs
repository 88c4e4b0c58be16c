//! What rules must know of pods: all that an ADD adds.

use std::collections::{BTreeMap, BTreeSet};

use crate::datapath::Pod;

/// The sets that know every pod, by the family of the table that they are in where nft has them.
pub const SETS: [(&str, &str); 4] = [
    ("ip", "pods"),
    ("bridge", "ports"),
    ("bridge", "sources"),
    ("bridge", "addresses"),
];

/// The elements of each set; a port with an address has a space between.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Elements(BTreeMap<&'static str, BTreeSet<String>>);

impl Elements {
    /// What must be there for these pods.
    pub fn of(pods: &[Pod]) -> Self {
        pods.iter().fold(Self::default(), |mut all, pod| {
            all.extend(Self::of_one(pod, pods));
            all
        })
    }

    /// What must be there for one of them. A container answers for all of its addresses on each of its
    /// interfaces, so those of the others are among it.
    pub fn of_one(pod: &Pod, pods: &[Pod]) -> Self {
        let mut elements = Self::default();
        let own = [
            ("pods", pod.address.to_string()),
            ("addresses", pod.address.to_string()),
            ("ports", pod.host_veth.clone()),
            ("sources", source(pod, pod)),
        ];
        let others = (pods.iter()).filter(|other| other.container == pod.container);
        let shared = others
            .flat_map(|other| [source(pod, other), source(other, pod)])
            .map(|source| ("sources", source));
        for (set, element) in own.into_iter().chain(shared) {
            elements.insert(set, element);
        }
        elements
    }

    /// Adds one to a set.
    pub fn insert(&mut self, set: &'static str, element: String) {
        self.0.entry(set).or_default().insert(element);
    }

    /// Adds all of `others`.
    pub fn extend(&mut self, others: Self) {
        for (set, elements) in others.0 {
            self.0.entry(set).or_default().extend(elements);
        }
    }

    /// The elements of one set.
    pub fn in_set(&self, set: &str) -> impl Iterator<Item = &str> {
        self.0.get(set).into_iter().flatten().map(String::as_str)
    }

    /// Those that `others` does not have.
    pub fn without(&self, others: &Self) -> Self {
        let mut left = self.clone();
        for (set, elements) in &mut left.0 {
            elements.retain(|element| {
                !others
                    .0
                    .get(set)
                    .is_some_and(|there| there.contains(element))
            });
        }
        left.0.retain(|_, elements| !elements.is_empty());
        left
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn source(port: &Pod, of: &Pod) -> String {
    format!("{} {}", port.host_veth, of.address)
}

#[cfg(test)]
mod tests {
    use super::super::tests::pod;
    use super::*;

    #[test]
    fn a_container_answers_for_all_of_its_addresses_on_each_interface() {
        let pods = [pod("azv1", 1, 5), pod("azv2", 2, 6), pod("azv3", 1, 7)];
        let elements = Elements::of(&pods);
        let sources: Vec<&str> = elements.in_set("sources").collect();
        assert_eq!(
            sources,
            [
                "azv1 10.0.0.5",
                "azv1 10.0.0.7",
                "azv2 10.0.0.6",
                "azv3 10.0.0.5",
                "azv3 10.0.0.7",
            ]
        );
        let gone = elements.without(&Elements::of(&pods[..2]));
        assert_eq!(gone.in_set("ports").collect::<Vec<_>>(), ["azv3"]);
        assert_eq!(gone.in_set("sources").count(), 3);
    }

    #[test]
    fn one_pod_and_the_others_are_all() {
        let pods = [pod("azv1", 1, 5), pod("azv3", 1, 7)];
        let mut elements = Elements::of(&pods[..1]);
        elements.extend(Elements::of_one(&pods[1], &pods));
        assert_eq!(elements, Elements::of(&pods));
        assert!(elements.without(&Elements::of(&pods)).is_empty());
    }
}
