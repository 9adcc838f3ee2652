//! D41: a published UDP port moves to another container while somebody goes on sending to it.

use std::time::Duration;

use xtask::lab::wait;

use crate::ground::Ground;
use crate::ways::host;

/// Whoever gets the address that the port led to must not get what is sent to the port.
#[test]
fn a_udp_port_moves_and_never_leads_to_the_wrong_container() {
    let Some(ground) = Ground::start("a_udp_port_moves_and_never_leads_to_the_wrong_container", true) else {
        return;
    };
    let lab = &ground.lab;
    let _daemon = ground.fw("");
    let ask = || lab.outside().udp_from(SENDER, host(5353)).expect("a probe");
    assert!(ask().reached_at("a1"), "before");
    let address = ground.a1.v4.expect("a1 has an address").to_string();
    lab.docker(&["rm", "-f", "a1"]).expect("a1 is gone");
    let thief = lab.container("thief", &["--network=A", &format!("--ip={address}")]).expect("a container");
    let thief = thief.place.serve_udp("[::]:5353", "thief").expect("a server");
    let new = lab.container("new", &["--network=B", "-p=5353:5353/udp"]).expect("a container");
    let new = new.place.serve_udp("[::]:5353", "new").expect("a server");
    wait::until("R's datagrams reach the new container", Duration::from_secs(10), || {
        ask().reached_at("new").then_some(())
    })
    .unwrap_or_else(|error| {
        let connections = lab.host().run(&["cat", "/proc/net/nf_conntrack"]).unwrap_or_default();
        panic!("{error:#}\n{connections}\n{}\n{}", lab.fw_log(), ground.rules())
    });
    // docker-proxy may have served the first of them, from the host; our rules show who sends.
    wait::until("the new container sees R itself", Duration::from_secs(10), || {
        ask();
        new.heard().iter().any(|heard| heard.from.to_string() == format!("198.18.0.2:{SENDER}")).then_some(())
    })
    .expect("translated");
    assert!(thief.heard().is_empty(), "heard by the wrong container: {:?}", thief.heard());
}

const SENDER: u16 = 5001;
