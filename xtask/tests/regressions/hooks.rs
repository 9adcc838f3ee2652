//! Hooks that go away behind the daemon's back, and devices that change their name or their namespace.

use std::time::Duration;

use xtask::lab::{BPFFS, HOST, Lab, Outcome, wait};

use crate::ground::{Ground, POLICY};

/// Z15: a TCX link that somebody detaches is put back, and `fw status` does not call it attached meanwhile.
#[test]
fn detached_link_is_put_back() {
    let Some(ground) = Ground::start("detached_link_is_put_back") else { return };
    let lab = &ground.lab;
    let _daemon = ground.fw();
    assert_eq!(closed_port(lab), Outcome::Silent);
    lab.host()
        .script(&format!("for l in {BPFFS}/hooks/uplink_ingress-*; do bpftool link detach pinned $l; done"))
        .expect("bpftool");
    closes_again(lab);
}

/// Z15, clsact: `tc qdisc del dev eth0 clsact`.
#[test]
fn deleted_clsact_is_put_back() {
    let Some(ground) = Ground::start("deleted_clsact_is_put_back") else { return };
    let lab = &ground.lab;
    let _daemon = lab.fw_run_with(POLICY, &["--attach", "clsact"]).expect("fw");
    assert_eq!(closed_port(lab), Outcome::Silent);
    lab.host().script("tc qdisc del dev eth0 clsact").expect("tc");
    closes_again(lab);
}

/// Z09: a renamed uplink stays guarded.
#[test]
fn renamed_uplink_stays_hooked() {
    let Some(ground) = Ground::start("renamed_uplink_stays_hooked") else { return };
    let lab = &ground.lab;
    let named = POLICY.replace("published = \"closed\"", "published = \"closed\"\ninterfaces = [\"eth0\"]");
    let _daemon = lab.fw_run(&named).expect("fw");
    assert_eq!(closed_port(lab), Outcome::Silent);
    lab.host()
        .script(
            "ip link set eth0 down; ip link set eth0 name wan0; ip link set wan0 up
             ip route replace default via 198.18.0.2; ip addr show dev wan0",
        )
        .expect("a new name");
    closes_again(lab);
}

/// W17: a device that was in another namespace for a moment is hooked again.
#[test]
fn uplink_that_was_in_another_namespace_is_hooked() {
    let Some(ground) = Ground::start("uplink_that_was_in_another_namespace_is_hooked") else { return };
    let lab = &ground.lab;
    lab.further("away").expect("a namespace");
    let _daemon = ground.fw();
    assert_eq!(closed_port(lab), Outcome::Silent);
    lab.host()
        .script(
            "ip link set eth0 netns away; ip -n away link set eth0 netns $$
             ip addr add 198.18.0.1/24 dev eth0; ip link set eth0 up; ip route add default via 198.18.0.2",
        )
        .expect("there and back");
    closes_again(lab);
}

/// Z11: the first thing that a container does is to claim its gateway's address; no neighbour hears it.
#[test]
fn newborn_container_speaks_for_nobody() {
    newborns("newborn_container_speaks_for_nobody", POLICY);
}

fn newborns(test: &str, policy: &str) {
    let Some(ground) = Ground::start(test) else { return };
    let lab = &ground.lab;
    let _daemon = lab.fw_run(policy).expect("fw");
    let mut heard = Vec::new();
    for round in 0..5 {
        let capture = ground.a2.place.capture("eth0").expect("a capture");
        let claims = "ip addr add 10.1.0.1/32 dev eth0; for i in $(seq 40); do \
                      arping -U -c 1 -w 1 -I eth0 10.1.0.1 & usleep 20000; done; sleep 60";
        let name = format!("newborn{round}");
        lab.container_running(&name, &["--network=A"], &["sh", "-c", claims]).expect("a container");
        let count = std::cell::Cell::new(0);
        capture.wait_for(Duration::from_secs(2), |frame| {
            let claim = frame.len() >= 42 && frame[12..14] == [8, 6] && frame[28..32] == [10, 1, 0, 1];
            let forged = claim && frame[6..12] != gateway_mac(lab);
            count.set(count.get() + u32::from(forged));
            false
        });
        heard.push(count.get());
        lab.docker(&["rm", "-f", &name]).expect("it is gone");
    }
    eprintln!("claims heard by the neighbour in each of five births: {heard:?}; {:?}", lab.fw_drops());
    assert_eq!(heard.iter().sum::<u32>(), 0, "claims that the neighbour heard, by birth: {heard:?}");
}

fn gateway_mac(lab: &Lab) -> [u8; 6] {
    let text = lab.host().run(&["cat", "/sys/class/net/br-A/address"]).expect("an address");
    text.parse::<xtask::lab::frame::Mac>().expect("a MAC address").0
}

fn closed_port(lab: &Lab) -> Outcome {
    lab.outside().tcp((HOST, 9100).into()).expect("a probe")
}

fn closes_again(lab: &Lab) {
    let closed = wait::until("the closed port is closed again", Duration::from_secs(15), || {
        (closed_port(lab) == Outcome::Silent).then_some(())
    });
    let status = lab.fw(&["status"]).unwrap_or_else(|error| format!("{error:#}"));
    assert!(closed.is_ok(), "a closed port is open for more than 15 s, and `fw status` says:\n{status}");
}
