//! Numbers and what people read for them: hooks, reasons, names in maps, addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fw_common::tables::{Name, Prefix};
use fw_common::{Address, Hook, Reason};

#[test]
fn a_hooks_number_and_name_are_its_own() {
    let hooks: Vec<Hook> = (0..=u8::MAX).filter_map(Hook::from_number).collect();
    assert_eq!(hooks.len(), 7);
    for (number, hook) in (0..).zip(&hooks) {
        assert_eq!(*hook as u8, number);
    }
    let names: BTreeSet<&str> = hooks.iter().map(|hook| hook.name()).collect();
    assert_eq!(names.len(), hooks.len());
}

#[test]
fn a_reasons_number_and_name_are_its_own() {
    let reasons: Vec<Reason> = (0..=u8::MAX).filter_map(Reason::from_number).collect();
    assert_eq!(reasons, Reason::ALL);
    let names: BTreeSet<&str> = reasons.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), reasons.len());
}

#[test]
fn a_name_is_cut_between_characters() {
    assert_eq!(Name::new("web").as_str(), "web");
    assert_eq!(Name::new(&"x".repeat(64)).as_str(), "x".repeat(64));
    assert_eq!(Name::new(&"x".repeat(65)).as_str(), "x".repeat(64));
    let long = format!("x{}", "é".repeat(40));
    assert_eq!(
        Name::new(&long).as_str(),
        format!("x{}", "é".repeat(31)),
        "63 bytes; the next would be half a letter"
    );
    assert_eq!(Name { text: [0xff; 64] }.as_str(), "", "what is no UTF-8 is no name");
}

#[test]
fn an_address_is_written_as_its_family_writes_it() {
    for text in ["198.18.0.1", "0.0.0.0", "255.255.255.255", "2001:db8::1", "::", "fe80::1"] {
        let address: IpAddr = text.parse().expect("an address");
        assert_eq!(Address::from(address).to_string(), text);
        assert_eq!(IpAddr::from(Address::from(address)), address);
    }
}

#[test]
fn a_prefix_holds_what_begins_with_it() {
    let address = |text: &str| Address::from(text.parse::<IpAddr>().expect("an address"));
    let net = Prefix::new(address("10.1.2.3"), 96 + 24);
    assert!(net.holds(&address("10.1.2.0")) && net.holds(&address("10.1.2.255")));
    assert!(!net.holds(&address("10.1.3.0")) && !net.holds(&address("fd00::1")));
    assert!(Prefix::new(net.address, 0).holds(&address("fd00::1")), "no bit counts");
    assert!(!Prefix::new(net.address, 128).holds(&address("10.1.2.1")), "all bits count");
}
