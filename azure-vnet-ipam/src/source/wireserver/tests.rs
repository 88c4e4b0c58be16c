#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;

fn found(xml: &str) -> Vec<(String, bool, Vec<String>)> {
    let subnets = parse(xml).unwrap().subnets.into_iter();
    subnets
        .map(|subnet| {
            let addresses = subnet.addresses.iter().map(ToString::to_string);
            (
                subnet.prefix.to_string(),
                subnet.primary,
                addresses.collect(),
            )
        })
        .collect()
}

#[test]
fn the_documents_usual_form() {
    let xml = r#"<?xml version="1.0" encoding="utf-8"?>
<Interfaces>
  <Interface MacAddress="000D3A112233" IsPrimary="true">
    <IPSubnet Prefix="10.20.0.0/22">
      <IPAddress Address="10.20.0.4" IsPrimary="true"/>
      <IPAddress Address="10.20.0.5" IsPrimary="false"/>
      <IPAddress Address="10.20.0.6" IsPrimary="false"/>
    </IPSubnet>
  </Interface>
</Interfaces>"#;
    let expected = vec!["10.20.0.5".to_owned(), "10.20.0.6".to_owned()];
    assert_eq!(found(xml), [("10.20.0.0/22".to_owned(), true, expected)]);
}

#[test]
fn several_interfaces_and_subnets() {
    let xml = r#"<Interfaces>
  <Interface MacAddress="*" IsPrimary="false">
    <IPSubnet Prefix="10.1.0.0/24"><IPAddress Address="10.1.0.9" IsPrimary="false"/></IPSubnet>
    <IPSubnet Prefix="10.1.1.0/24"><IPAddress Address="10.1.1.9" IsPrimary="false"/></IPSubnet>
    <IPSubnet Prefix="fd00::/64"><IPAddress Address="fd00::5" IsPrimary="false"/></IPSubnet>
  </Interface>
  <Interface MacAddress="000D3A112233" IsPrimary="True"><IPSubnet Prefix="10.0.0.0/24"/></Interface>
</Interfaces>"#;
    let prefixes: Vec<_> = found(xml)
        .into_iter()
        .map(|(prefix, primary, _)| (prefix, primary))
        .collect();
    assert_eq!(
        prefixes,
        [
            ("10.1.0.0/24".to_owned(), false),
            ("10.1.1.0/24".to_owned(), false),
            ("10.0.0.0/24".to_owned(), true)
        ]
    );
    assert!(parse(xml).unwrap().warnings.is_empty());
}

#[test]
fn what_pods_must_not_have_is_left_out() {
    let xml = r#"<Interfaces>
  <Interface MacAddress="000D3A112233" IsPrimary="true">
    <IPSubnet Prefix="10.0.0.0/24">
      <IPAddress Address="10.0.0.4" IsPrimary="true"/>
      <IPAddress Address="10.0.0.0" IsPrimary="false"/>
      <IPAddress Address="10.0.0.1" IsPrimary="false"/>
      <IPAddress Address="10.0.0.3" IsPrimary="false"/>
      <IPAddress Address="10.0.0.255" IsPrimary="false"/>
      <IPAddress Address="10.0.1.5" IsPrimary="false"/>
      <IPAddress Address="10.0.0.x" IsPrimary="false"/>
      <IPAddress IsPrimary="false"/>
      <IPAddress Address="10.0.0.7" IsPrimary="false"/>
      <IPAddress Address="10.0.0.7" IsPrimary="false"/>
    </IPSubnet>
    <IPSubnet Prefix="10.0.0.0/24"><IPAddress Address=" 10.0.0.8 " IsPrimary="false"/></IPSubnet>
    <IPSubnet Prefix="nonsense"><IPAddress Address="10.0.0.9" IsPrimary="false"/></IPSubnet>
  </Interface>
  <Interface MacAddress="000D3A112244" IsPrimary="false">
    <IPSubnet Prefix="10.0.0.0/24">
      <IPAddress Address="10.0.0.4" IsPrimary="false"/>
      <IPAddress Address="10.0.0.8" IsPrimary="false"/>
      <IPAddress Address="10.0.0.5" IsPrimary="true"/>
    </IPSubnet>
  </Interface>
</Interfaces>"#;
    let expected = vec!["10.0.0.7".to_owned(), "10.0.0.8".to_owned()];
    assert_eq!(
        found(xml),
        [
            ("10.0.0.0/24".to_owned(), true, expected),
            ("10.0.0.0/24".to_owned(), false, vec![])
        ]
    );
    let warnings = parse(xml).unwrap().warnings;
    // Four reserved, one outside, two that are no addresses, one prefix.
    assert_eq!(warnings.len(), 8, "{warnings:#?}");
}

#[test]
fn a_prefix_may_have_host_bits() {
    let xml = r#"<Interfaces><Interface IsPrimary="true"><IPSubnet Prefix="10.0.0.4/24">
        <IPAddress Address="10.0.0.9"/></IPSubnet></Interface></Interfaces>"#;
    assert_eq!(found(xml)[0].0, "10.0.0.0/24");
    assert_eq!(found(xml)[0].2, ["10.0.0.9"]);
}

#[test]
fn what_is_no_such_document_is_an_error() {
    for xml in [
        "",
        "{}",
        "<Interfaces>",
        "<html/>",
        "<!DOCTYPE x [<!ENTITY a \"b\">]><Interfaces/>",
    ] {
        assert!(parse(xml).is_err(), "{xml}");
    }
    assert_eq!(found("<Interfaces/>"), []);
}
