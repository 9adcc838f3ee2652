//! Faults of the host around fw: its rules, its switches, its limits.

use std::time::{Duration, Instant};

use crate::story::{Shown, Story};

pub(crate) fn rows(story: &mut Story<'_>) {
    story.row("Z16, L05", "iptables -F in filter and raw; dockerd writes its rules again", |story| {
        let script = "for t in filter raw; do iptables -w -t $t -F; ip6tables -w -t $t -F; done; nft delete table bridge fw 2>/dev/null || true";
        story.ground.lab.host().script(script).expect("iptables");
        let told = story.tells("FORWARD in iptables does not lead to DOCKER-USER");
        Shown { told: Some(told), healed: Some(docker_repairs(story)) }
    });
    story.row("Z16, L05", "nft flush ruleset; dockerd writes its rules again", |story| {
        // Without NAT the host itself answers what was led to a container: with a reset.
        story.pulse.take();
        story.ground.lab.host().script("nft flush ruleset").expect("nft");
        let told = story.tells("Docker's NAT rules are gone");
        Shown { told: Some(told), healed: Some(docker_repairs(story)) }
    });
    story.row("L06", "a network and its container are removed, then all is flushed", |story| {
        let lab = &story.ground.lab;
        lab.network("Z", &["--subnet=10.9.0.0/24"]).expect("a network");
        lab.container("z1", &["--network=Z", "-p=8103:80"]).expect("a container");
        lab.docker(&["rm", "-f", "z1"]).expect("docker");
        lab.docker(&["network", "rm", "Z"]).expect("docker");
        story.signal("HUP");
        let healed = story.until("nothing of it is left", || {
            let table = |name| lab.fw(&["table", name]).expect("a table");
            !table("subnets").contains("10.9.0.") && !table("endpoints").contains("10.9.0.")
        });
        Shown { told: None, healed: Some(healed) }
    });
    for (what, there, back) in [
        ("bridge-nf-call-iptables = 0", "net/bridge/bridge-nf-call-iptables 0", "1"),
        ("bridge-nf-call-ip6tables = 0", "net/bridge/bridge-nf-call-ip6tables 0", "1"),
        ("rp_filter = 1", "net/ipv4/conf/all/rp_filter 1", "0"),
        ("rp_filter = 2", "net/ipv4/conf/all/rp_filter 2", "0"),
        ("route_localnet = 1", "net/ipv4/conf/all/route_localnet 1", "0"),
        ("proxy_arp = 1", "net/ipv4/conf/all/proxy_arp 1", "0"),
        ("accept_ra = 2", "net/ipv6/conf/all/accept_ra 2", "0"),
        ("RPS on one CPU", "RPS 1", "0"),
    ] {
        let (key, value) = there.split_once(' ').expect("a key and its value");
        let row = if key == "RPS" { "Z28" } else { "Z24" };
        story.row(row, what, |story| {
            let write = |value: &str| {
                let line = match key {
                    "RPS" => {
                        format!("for f in /sys/class/net/*/queues/rx-0/rps_cpus; do echo {value} >$f; done")
                    }
                    key => format!("echo {value} >/proc/sys/{key}"),
                };
                story.ground.lab.host().script(&line).expect("a switch");
            };
            write(value);
            assert!(story.ground.opens(), "{what}");
            write(back);
            Shown::default()
        });
    }
    story.row("Z24", "ip_forward = 0, and 1 again", |story| {
        let write = |value: u8| {
            story
                .ground
                .lab
                .host()
                .script(&format!("echo {value} >/proc/sys/net/ipv4/ip_forward"))
                .expect("a switch");
        };
        write(0);
        xtask::lab::wait::pass(Duration::from_millis(500));
        write(1);
        Shown { told: None, healed: Some(story.heals()) }
    });
    let conntrack = "/proc/sys/net/netfilter/nf_conntrack_max";
    if story.ground.lab.host().succeeds(&["sh", "-c", &format!("test -w {conntrack}")]) {
        story.skip("Z23", "nf_conntrack_max can be written here, but is one for the whole machine");
    } else {
        story.skip("Z23", "nf_conntrack_max is one for the whole machine, and a namespace may not change it");
    }
    story.skip(
        "Z18",
        "the clock and the sleep of a machine are not a namespace's; Z02 halts the daemon instead",
    );
    story.skip("Z27", "bpf_jit_harden, lockdown and unprivileged_bpf_disabled are the whole machine's");
    story.skip("Z28", "taking a CPU away needs a machine of one's own; RPS is a row");
}

/// Docker writes its rules when it starts; with live-restore 20.10 leads FORWARD to DOCKER-USER only with the next
/// network. How long that takes, and until fw has nothing to say.
fn docker_repairs(story: &Story<'_>) -> Duration {
    let begun = Instant::now();
    story.ground.lab.signal_docker("TERM").expect("a signal");
    story.ground.lab.docker_again(&[]).expect("dockerd");
    story.ground.lab.docker(&["network", "create", "next"]).expect("a network");
    story.ground.lab.docker(&["network", "rm", "next"]).expect("its removal");
    story.heals();
    begun.elapsed()
}
