//! Uplinks that are not plain: bridges with VLANs and guests, macvlan and tunnel devices.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use xtask::lab::frame::{ACK, ETHERTYPE_IPV4, Mac, SYN, TCP, ip_frame, tagged, tcp};
use xtask::lab::{HOST, HOST_MAC, OUTSIDE, OUTSIDE_MAC, Options, Uplink};

use crate::ground::{Ground, POLICY};

/// A frame tagged with the bridge's own VLAN is untagged by a bridge that filters VLANs, and is then for the host.
#[test]
fn vlan_of_a_filtering_uplink_bridge_is_judged() {
    let options = Options { uplink: Uplink::PortOfBridge, ..Options::default() };
    let Some(ground) = Ground::with("vlan_of_a_filtering_uplink_bridge_is_judged", options) else { return };
    let lab = &ground.lab;
    let filtering = lab.host().run(&["ip", "link", "set", "br0", "type", "bridge", "vlan_filtering", "1"]);
    if let Err(error) = filtering {
        // Without CONFIG_BRIDGE_VLAN_FILTERING.
        eprintln!("SKIPPED: vlan_of_a_filtering_uplink_bridge_is_judged: {error:#}");
        return;
    }
    let mut from = 42_000;
    let mut answered = |vlans: &[u16], to: u16| {
        from += 1;
        let capture = lab.outside().capture("eth0").expect("a capture");
        let packet = tcp((OUTSIDE.into(), from), (HOST.into(), to), SYN, (1, 0));
        let frame = tagged(&ip_frame(HOST_MAC, OUTSIDE_MAC, &packet), vlans);
        lab.outside().send_frame("eth0", &frame).expect("a frame");
        capture.wait_for(SHORT, |frame| is_syn_ack(frame, to, from)).is_some()
    };
    assert!(answered(&[1], 9100), "without fw the bridge takes its own VLAN");
    let _daemon = ground.fw();
    assert!(!answered(&[], 9100), "untagged: closed");
    assert!(!answered(&[1], 9100), "VLAN 1 walks around the uplink's hook");
}

/// A macvlan device of the host has a MAC address of its own: its frames are another machine's to the uplink's hook.
#[test]
fn macvlan_of_the_host_opens_no_port() {
    let Some(ground) = Ground::start("macvlan_of_the_host_opens_no_port") else { return };
    let lab = &ground.lab;
    lab.host()
        .script(
            "ip link add shim link eth0 address 02:00:00:00:00:99 type macvlan mode bridge
             ip addr add 198.18.0.99/32 dev shim; ip link set shim up",
        )
        .expect("a macvlan");
    let shim = Mac([2, 0, 0, 0, 0, 0x99]);
    let mut from = 43_000;
    let mut answered = |to_mac: Mac, address: Ipv4Addr, to: u16| {
        from += 1;
        let capture = lab.outside().capture("eth0").expect("a capture");
        let packet = tcp((OUTSIDE.into(), from), (address.into(), to), SYN, (1, 0));
        lab.outside().send_frame("eth0", &ip_frame(to_mac, OUTSIDE_MAC, &packet)).expect("a frame");
        capture.wait_for(SHORT, |frame| is_syn_ack(frame, to, from)).is_some()
    };
    assert!(answered(shim, HOST, 9100), "without fw");
    let _daemon = ground.fw();
    assert!(!answered(HOST_MAC, HOST, 9100), "closed by the uplink's own MAC address");
    assert!(!answered(shim, HOST, 9100), "open by the MAC address of the macvlan");
}

/// The default route over 6in4: what arrives there starts with the tunnel's outer header as far as TC is concerned.
#[test]
fn sit_tunnel_as_uplink_works() {
    let Some(ground) = Ground::start("sit_tunnel_as_uplink_works") else { return };
    let lab = &ground.lab;
    let made = lab.host().script(&format!(
        "ip link add he type sit local {HOST} remote {OUTSIDE} ttl 64; ip addr add 2001:db8:41::1/64 dev he nodad
         ip link set he up
         ip -n r link add he type sit local {OUTSIDE} remote {HOST} ttl 64
         ip -n r addr add 2001:db8:41::2/64 dev he nodad; ip -n r link set he up
         ip -6 route del default; ip -6 route add default dev he"
    ));
    if let Err(error) = made {
        eprintln!("SKIPPED: sit_tunnel_as_uplink_works: {error:#}");
        return;
    }
    let to: IpAddr = "2001:db8:41::1".parse().expect("an address");
    let reached = || lab.outside().tcp((to, 9100).into()).expect("a probe").reached();
    assert!(reached(), "without fw");
    let policy = format!("{POLICY}\n[[allow]]\nname = \"nine\"\nproto = \"tcp\"\nports = [9100]\n");
    let policy = policy.replace("published = \"closed\"", "published = \"closed\"\ninterfaces = [\"he\"]");
    let _daemon = lab.fw_run(&policy).expect("fw");
    assert!(reached(), "an allowed port over the tunnel: {:?}", lab.fw_drops());
}

fn is_syn_ack(frame: &[u8], from: u16, to: u16) -> bool {
    let at = if frame.len() > 18 && frame[12..14] == [0x81, 0] { 4 } else { 0 };
    frame.len() >= 54 + at
        && frame[12 + at..14 + at] == ETHERTYPE_IPV4.to_be_bytes()
        && frame[23 + at] == TCP
        && frame[34 + at..36 + at] == from.to_be_bytes()
        && frame[36 + at..38 + at] == to.to_be_bytes()
        && frame[47 + at] & (SYN | ACK) == SYN | ACK
}

const SHORT: Duration = Duration::from_millis(900);
