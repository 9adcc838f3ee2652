//! Docker 29's nftables backend, on rules of its shape: what `--bridge-accept-fwmark` lets through, and that fw writes
//! nothing into Docker's tables.
//!
//! No Docker 29 is here to write them: dockerd runs without its own rules, and the table is as the golden files of its
//! `nftabler` have it, for the networks of this lab.

use std::time::Duration;

use xtask::lab::{self, HOST, Lab, Options, Outcome, wait};

#[test]
fn a_mark_passes_docker_s_nftables_rules_only_where_docker_was_told() {
    if !lab::available("a_mark_passes_docker_s_nftables_rules_only_where_docker_was_told") {
        return;
    }
    let dockerd = vec!["--iptables=false".to_owned()];
    let lab =
        Lab::start(Options { dockerd, forward_accept: true, userland_proxy: false, ..Options::default() })
            .expect("a lab");
    lab.network("A", &["--subnet", "10.1.0.0/24"]).expect("network A");
    lab.network("B", &["--subnet", "10.2.0.0/24"]).expect("network B");
    let a1 = lab.container("a1", &["--network=A", "--ip=10.1.0.2"]).expect("a1");
    let b1 = lab.container("b1", &["--network=B", "-p=8080:80", "--ip=10.2.0.2"]).expect("b1");
    let b1_web = b1.place.serve_tcp("[::]:80", "b1").expect("a server");
    let b1_other = b1.place.serve_tcp("[::]:81", "b1").expect("a server");
    let to_b1 = |port| (b1.ip().expect("an address"), port).into();
    let published = || lab.outside().tcp((HOST, 8080).into()).expect("a probe");
    let reached = |port| a1.place.tcp(to_b1(port)).expect("a probe");

    // What dockerd 29 writes with and without the option; direct routing is allowed in both but the first.
    let mark = "meta mark and 16777216 == 16777216 counter accept comment \"ALLOW FW MARK\"";
    for (mark, direct, between) in [
        ("", "ip daddr 10.2.0.2 iifname != \"br-B\" counter drop comment \"DROP DIRECT ACCESS\"", false),
        ("", "", false),
        (mark, "ip daddr 10.2.0.2 iifname != \"br-B\" counter drop comment \"DROP DIRECT ACCESS\"", false),
        (mark, "", true),
    ] {
        write(&lab, &TABLE.replace("MARK", mark).replace("DIRECT", direct));
        let before = table(&lab);
        assert!(!reached(81).reached(), "without fw no network reaches another: {mark}");
        assert!(published().reached_at("b1"), "without fw the published port is open: {mark}");
        let daemon = lab.fw_run(POLICY).expect("fw");
        assert!(
            published().reached_at("b1"),
            "Docker's rules let published ports in: {mark}\n{}",
            lab.fw_log()
        );
        assert_eq!(
            reached(81).reached_at("b1"),
            between,
            "only what Docker takes the mark of: {mark}\n{before}"
        );
        assert_eq!(lab.outside().tcp((HOST, 22).into()).expect("a probe"), Outcome::Silent);
        let log = lab.fw_log();
        let status = lab.fw_status().expect("fw status");
        let found = &status["handover"]["nftables"];
        assert_eq!(found["accepts_mark"], !mark.is_empty(), "{found}");
        assert_eq!(found["drops_direct"], !direct.is_empty(), "{found}");
        let summary = status["handover"]["summary"].as_str().unwrap_or_default().to_owned();
        for (option, wanted) in [
            ("--bridge-accept-fwmark=0x1000000/0x1000000", mark.is_empty()),
            ("--allow-direct-routing", !direct.is_empty()),
        ] {
            assert_eq!(summary.contains(option), wanted, "{option}: {summary}");
            assert!(!wanted || log.contains(option), "the log names {option}:\n{log}");
        }
        daemon.terminate().expect("the end of fw");
        lab.fw_down().expect("fw down");
        assert_eq!(table(&lab), before, "nothing of ours stands in Docker's table");
    }
    drop((b1_web, b1_other));
}

/// Docker 29 that is told to use nftables takes its rules out of iptables, but leaves DOCKER-USER (moby, `cleaner.go`).
#[test]
fn a_docker_that_changes_to_nftables_has_its_nat() {
    if !lab::available("a_docker_that_changes_to_nftables_has_its_nat") {
        return;
    }
    let lab = Lab::start(Options { forward_accept: true, ..Options::default() }).expect("a lab");
    lab.network("A", &["--subnet", "10.1.0.0/24"]).expect("network A");
    lab.network("B", &["--subnet", "10.2.0.0/24"]).expect("network B");
    let b1 = lab.container("b1", &["--network=B", "-p=8080:80", "--ip=10.2.0.2"]).expect("b1");
    let _web = b1.place.serve_tcp("[::]:80", "b1").expect("a server");
    let daemon = lab.fw_run(POLICY).expect("fw");
    let becomes = |wanted: &str| {
        wait::until(&format!("NAT is {wanted}"), Duration::from_secs(25), || {
            let output = lab.fw_command(&["status", "--json"]).ok()?.output().ok()?;
            let status: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["handover"]["nat"] == wanted).then_some(status)
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", lab.fw_log()))
    };
    becomes("docker");
    let cleaned = "iptables-save | grep -v -e ' DOCKER$' -e ' DOCKER ' -e ':DOCKER ' -e ISOLATION -e br-A -e br-B \
                   -e docker0 | iptables-restore";
    lab.host().script(cleaned).expect("Docker's rules taken away");
    daemon.signal("HUP").expect("SIGHUP");
    becomes("gone");
    write(&lab, &TABLE.replace("MARK", "").replace("DIRECT", ""));
    daemon.signal("HUP").expect("SIGHUP");
    let status = becomes("docker");
    let problems = status["problems"].to_string();
    assert!(!problems.contains("NAT"), "{problems}");
    let summary = status["handover"]["summary"].as_str().unwrap_or_default();
    assert!(summary.contains("--bridge-accept-fwmark="), "what dockerd lacks is said: {summary}");
    assert!(lab.outside().tcp((HOST, 8080).into()).expect("a probe").reached_at("b1"), "{}", table(&lab));
    // And what nftables held is missed as well.
    lab.host().run(&["nft", "delete", "table", "ip", "docker-bridges"]).expect("no table");
    daemon.signal("HUP").expect("SIGHUP");
    becomes("gone");
}

/// Docker's table, without counters.
fn table(lab: &Lab) -> String {
    lab.host().run(&["nft", "-s", "list", "table", "ip", "docker-bridges"]).expect("Docker's table")
}

fn write(lab: &Lab, table: &str) {
    let text = format!("table ip docker-bridges\ndelete table ip docker-bridges\n{table}");
    std::fs::write(lab.path("/run/lab/docker.nft"), text).expect("a file");
    lab.host().run(&["nft", "-f", "/run/lab/docker.nft"]).expect("the rules of Docker's shape");
}

const POLICY: &str = r#"
[[allow]]
name = "web"
proto = "tcp"
ports = [8080]

[networks.A]
reach = ["B"]
"#;

const TABLE: &str = r#"
table ip docker-bridges {
	map filter-forward-in-jumps {
		type ifname : verdict
		elements = { "br-A" : jump filter-forward-in__br-A, "br-B" : jump filter-forward-in__br-B }
	}
	map filter-forward-out-jumps {
		type ifname : verdict
		elements = { "br-A" : jump filter-forward-out__br-A, "br-B" : jump filter-forward-out__br-B }
	}
	map nat-postrouting-out-jumps {
		type ifname : verdict
		elements = { "br-A" : jump nat-postrouting-out__br-A, "br-B" : jump nat-postrouting-out__br-B }
	}
	chain filter-FORWARD {
		type filter hook forward priority filter; policy accept;
		oifname vmap @filter-forward-in-jumps
		iifname vmap @filter-forward-out-jumps
	}
	chain nat-PREROUTING {
		type nat hook prerouting priority dstnat; policy accept;
		fib daddr type local counter jump nat-prerouting-and-output
	}
	chain nat-POSTROUTING {
		type nat hook postrouting priority srcnat; policy accept;
		iifname vmap @nat-postrouting-out-jumps
	}
	chain nat-prerouting-and-output {
		tcp dport 8080 counter dnat to 10.2.0.2:80 comment "DNAT"
	}
	chain raw-PREROUTING {
		type filter hook prerouting priority raw; policy accept;
		DIRECT
	}
	chain filter-forward-in__br-A {
		ct state established,related counter accept
		MARK
		iifname "br-A" counter accept comment "ICC"
		counter drop comment "UNPUBLISHED PORT DROP"
	}
	chain filter-forward-out__br-A {
		ct state established,related counter accept
		counter accept comment "OUTGOING"
	}
	chain filter-forward-in__br-B {
		ct state established,related counter accept
		MARK
		iifname "br-B" counter accept comment "ICC"
		ip daddr 10.2.0.2 tcp dport 80 counter accept
		counter drop comment "UNPUBLISHED PORT DROP"
	}
	chain filter-forward-out__br-B {
		ct state established,related counter accept
		counter accept comment "OUTGOING"
	}
	chain nat-postrouting-out__br-A {
		oifname != "br-A" ip saddr 10.1.0.0/24 counter masquerade comment "MASQUERADE"
	}
	chain nat-postrouting-out__br-B {
		oifname != "br-B" ip saddr 10.2.0.0/24 counter masquerade comment "MASQUERADE"
	}
}
"#;
