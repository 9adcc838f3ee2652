//! The rules are written once, put back when somebody takes them away, and gone after `fw down`, in both flavours.

use std::time::Duration;

use xtask::lab::wait;

use crate::ground::{Ground, closed, open};
use crate::ways::{COMMON, host, reached};

/// fw writes in the flavour that is in use; with rules in neither, in that of the plain command.
#[test]
fn both_flavours() {
    let Some(ground) = Ground::start("both_flavours", true) else { return };
    let host = ground.lab.host();
    for (flavour, other) in [("nft", "legacy"), ("legacy", "nft")] {
        let used = format!("for t in iptables ip6tables; do $t-{flavour} -A INPUT -i lo -j ACCEPT; done");
        host.script(&used).expect("a rule of somebody else");
        let before = ground.rules();
        let daemon = ground.fw("");
        let rules = ground.rules();
        for tool in ["iptables", "ip6tables"] {
            assert!(section(&rules, tool, flavour).contains("FW-POSTROUTING"), "{tool}-{flavour}:\n{rules}");
            assert!(!section(&rules, tool, other).contains("FW-"), "{tool}-{other}:\n{rules}");
        }
        ground.walk(flavour, COMMON);
        daemon.terminate().expect("SIGTERM");
        // A second daemon finds what it wants and writes nothing.
        let daemon = ground.fw("");
        assert_eq!(
            ground.lab.fw_log().matches("iptables holds our rules").count(),
            1,
            "{}",
            ground.lab.fw_log()
        );
        daemon.terminate().expect("SIGTERM");
        ground.lab.fw_down().expect("fw down");
        assert_eq!(
            without_tables(&ground.rules()),
            without_tables(&before),
            "{flavour}: fw down leaves something"
        );
        std::fs::remove_file(ground.lab.path("/run/lab/fw.log")).expect("a log");
        host.script(&format!("for t in iptables ip6tables; do $t-{flavour} -F INPUT; done"))
            .expect("a flush");
    }
}

#[test]
fn flushed_and_put_back() {
    let Some(ground) = Ground::start("flushed_and_put_back", true) else { return };
    let daemon = ground.fw("");
    let whole = chains(&ground.rules());
    for harm in [
        "iptables -t nat -F; ip6tables -t nat -F",
        "iptables -t nat -D PREROUTING -m comment --comment fw -j FW-PREROUTING",
        "iptables -t nat -D FW-PORTS 1",
        "iptables -F FORWARD; iptables -A FORWARD -j ACCEPT",
        "iptables -t nat -F FW-POSTROUTING",
    ] {
        // A round of the daemon may mend it before it is seen.
        let harmed = || {
            ground.lab.host().script(harm).expect("harm");
            (chains(&ground.rules()) != whole).then_some(())
        };
        wait::until(&format!("`{harm}` to do something"), Duration::from_secs(15), harmed).expect("harm");
        // The first is found by the daemon's own round, the others are not waited for.
        if !harm.contains("ip6tables") {
            daemon.signal("HUP").expect("SIGHUP");
        }
        let put_back = || (chains(&ground.rules()) == whole).then_some(());
        wait::until(&format!("rules put back after `{harm}`"), Duration::from_secs(15), put_back)
            .expect("repair");
    }
    ground.lab.host().script("iptables -D FORWARD -j ACCEPT").expect("no foreign rule");
    ground.walk("after all repairs", COMMON);
    // Nothing is written while nothing changes: a rule's counters would begin anew.
    let count = "iptables-save -c -t nat | grep -- '-A PREROUTING.*FW-PREROUTING'";
    let first = ground.lab.host().script(count).expect("a counter");
    let passes = |status: serde_json::Value| status["daemon"]["passes"].as_u64().unwrap_or(0);
    let now = passes(ground.lab.fw_status().expect("fw status"));
    daemon.signal("HUP").expect("SIGHUP");
    wait::until("another pass", Duration::from_secs(15), || {
        ground.lab.fw_status().is_ok_and(|status| passes(status) > now).then_some(())
    })
    .expect("a pass");
    assert!(reached(ground.lab.outside().tcp(host(8080))), "the published port");
    let packets =
        |line: &str| line.split(['[', ':']).nth(1).and_then(|count| count.parse().ok()).unwrap_or(0_u64);
    let last = ground.lab.host().script(count).expect("a counter");
    assert!(packets(&last) > packets(&first), "rewritten meanwhile: {first} then {last}");
    let status = ground.lab.fw_status().expect("fw status");
    assert_eq!(status["handover"]["nat"], "fw", "{status:#}");
}

/// FORWARD may drop by its policy, or by somebody's last rule: what fw vouches for passes all the same.
#[test]
fn forward_drops() {
    let Some(ground) = Ground::start("forward_drops", true) else { return };
    ground.lab.set_forward_accept(false).expect("a policy");
    let daemon = ground.fw("");
    vouched_for_passes(&ground, "FORWARD drops by its policy");
    let rule = "iptables -P FORWARD ACCEPT; iptables -F FORWARD; iptables -A FORWARD -s 192.0.2.1 -j DROP; iptables -A FORWARD -j DROP";
    ground.lab.host().script(rule).expect("a last rule of somebody else");
    daemon.signal("HUP").expect("SIGHUP");
    let before = || {
        let forward = ground.lab.host().run(&["iptables", "-S", "FORWARD"]).ok()?;
        let at = |what: &str| forward.lines().position(|line| line.ends_with(what));
        (at("FW-ACCEPT")? < at("-A FORWARD -j DROP")?).then_some(())
    };
    wait::until("FW-ACCEPT before the last rule", Duration::from_secs(15), before).expect("written");
    vouched_for_passes(&ground, "D48: a foreign DROP at the end of FORWARD");
    ground.lab.host().script(UFW).expect("ufw's rules");
    daemon.signal("HUP").expect("SIGHUP");
    let before = || {
        let forward = ground.lab.host().run(&["iptables", "-S", "FORWARD"]).ok()?;
        let at = |what: &str| forward.lines().position(|line| line.ends_with(what));
        (at("FW-FORWARD")? < at("FW-ACCEPT")? && at("FW-ACCEPT")? < at("ufw-reject-forward")?).then_some(())
    };
    wait::until("FW-ACCEPT before ufw rejects", Duration::from_secs(15), before).expect("written");
    vouched_for_passes(&ground, "ufw rejects what is forwarded");
}

/// What ufw 0.36 makes of FORWARD with `DEFAULT_FORWARD_POLICY="REJECT"`.
const UFW: &str = "iptables -F FORWARD; iptables -P FORWARD DROP; iptables -N ufw-user-forward
    for chain in before-logging before after after-logging reject track; do
        iptables -N ufw-$chain-forward; iptables -A FORWARD -j ufw-$chain-forward
    done
    iptables -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    for kind in destination-unreachable time-exceeded parameter-problem echo-request; do
        iptables -A ufw-before-forward -p icmp --icmp-type $kind -j ACCEPT
    done
    iptables -A ufw-before-forward -j ufw-user-forward
    iptables -A ufw-reject-forward -j REJECT";

fn vouched_for_passes(ground: &Ground, when: &str) {
    ground.walk(
        when,
        &[
            open("D01: R -> H:8080", "a1", |g| g.lab.outside().tcp(host(8080))),
            open("D15: b1 -> H:8080", "a1", |g| g.b1.place.tcp(host(8080))),
            open("D46: a2 -> R:443", "R", |g| g.a2.place.tcp((xtask::lab::OUTSIDE, 443).into())),
            open("D12: a2 -> a1:81", "a1", |g| g.a2.place.tcp((g.a1.ip()?, 81).into())),
            closed("D13: a2 -> b1:80", |g| g.a2.place.tcp((g.b1.ip()?, 80).into())),
        ],
    );
}

/// What one tool prints.
fn section<'text>(rules: &'text str, tool: &str, flavour: &str) -> &'text str {
    let begin = rules.split_once(&format!("== {tool}-{flavour}\n")).map_or("", |(_, rest)| rest);
    begin.split_once("== ").map_or(begin, |(section, _)| section)
}

/// Rules and chains, without counters, dates, and tables that hold nothing (iptables-nft leaves those behind).
fn without_tables(rules: &str) -> Vec<String> {
    let lines = rules.lines().filter(|line| line.starts_with("-A") || line.starts_with(":FW"));
    lines.map(|line| line.split(" [").next().unwrap_or(line).to_owned()).collect()
}

fn chains(rules: &str) -> Vec<String> {
    without_tables(rules).into_iter().filter(|line| line.contains("FW-")).collect()
}
