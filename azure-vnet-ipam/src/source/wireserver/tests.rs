#![allow(
    clippy::unwrap_used,
    clippy::format_collect,
    reason = "a test fails by panicking, and may be slow"
)]

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

/// Shown on v0.1.0: 205 KB cost 375 s and 207 MB, for each name was looked up in all namespaces around it.
#[test]
fn a_document_has_a_depth() {
    let nested: String = (0..9000).map(|n| format!("<a xmlns:n{n}=\"u\">")).collect();
    let xml = format!("<Interfaces>{nested}{}</Interfaces>", "</a>".repeat(9000));
    assert!(xml.len() > 200_000);
    assert_eq!(parse(&xml).unwrap_err(), "it is more than 16 elements deep");
    let fits = format!(
        "<Interfaces>{}{}</Interfaces>",
        "<a>".repeat(15),
        "</a>".repeat(15)
    );
    assert!(parse(&fits).is_ok());
}

/// Likewise 11 s: each attribute was compared with all before it.
#[test]
fn an_element_has_a_number_of_attributes() {
    let with = |count: usize| {
        let attributes: String = (0..count).map(|n| format!(" a{n}=\"\"")).collect();
        parse(&format!(
            "<Interfaces><Interface{attributes}/></Interfaces>"
        ))
    };
    let error = "an element \"Interface\" has more than 32 attributes";
    for count in [33, 80_000] {
        assert_eq!(with(count).unwrap_err(), error);
    }
    assert!(with(32).is_ok());
}

#[test]
fn a_document_has_a_number_of_elements() {
    let with = |count: usize| {
        parse(&format!(
            "<Interfaces>{}</Interfaces>",
            "<a/>".repeat(count)
        ))
    };
    assert!(with(32_767).is_ok());
    assert_eq!(with(32_768).unwrap_err(), "it has more than 32768 elements");
}

#[test]
fn what_is_somewhere_else_is_not_listed() {
    let xml = r#"<Interfaces>
  <IPSubnet Prefix="10.0.0.0/24"><IPAddress Address="10.0.0.7"/></IPSubnet>
  <Interface MacAddress="*"><!-- a comment --><Other><IPSubnet Prefix="10.0.0.0/24"><IPAddress Address="10.0.0.8"/></IPSubnet></Other>
    <IPSubnet Prefix="10.0.0.0/24">text<Other><IPAddress Address="10.0.0.9"/></Other>
      <n:IPAddress xmlns:n="u" Address="10.0.0.&#49;0"/></IPSubnet></Interface>
</Interfaces>"#;
    let expected = vec!["10.0.0.10".to_owned()];
    assert_eq!(found(xml), [("10.0.0.0/24".to_owned(), false, expected)]);
}

#[test]
fn what_is_not_well_formed_is_an_error() {
    for xml in [
        "<Interfaces/><Interfaces/>",
        "<Interfaces/>x",
        "x<Interfaces/>",
        "<Interfaces></Interface>",
        "<Interfaces><Interface></Interfaces>",
        "</Interfaces>",
        "<Interfaces a=\"1\" a=\"2\"/>",
        "<Interfaces><Interface MacAddress=\"&own;\"/></Interfaces>",
        "<Interfaces/><![CDATA[x]]>",
        "<Interfaces/>&amp;",
    ] {
        assert!(parse(xml).is_err(), "{xml}");
    }
}

#[test]
fn addresses_that_no_pod_can_have_are_skipped() {
    for net in [
        "127.0.0.9/8",
        "0.0.0.9/8",
        "224.0.0.9/4",
        "255.255.255.254/4",
        "10.0.0.9/0",
    ] {
        let address = net.split('/').next().unwrap();
        let xml = format!(
            r#"<Interfaces><Interface MacAddress="*" IsPrimary="true"><IPSubnet Prefix="{net}">
               <IPAddress Address="{address}"/></IPSubnet></Interface></Interfaces>"#
        );
        let found = parse(&xml).unwrap();
        assert!(
            found
                .subnets
                .iter()
                .all(|subnet| subnet.addresses.is_empty()),
            "{net}"
        );
        assert_eq!(found.warnings.len(), 1, "{net}");
    }
}
