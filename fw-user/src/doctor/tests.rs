//! What follows from hosts that were seen, by example; `xtask/tests/doctor.rs` does it on real ones.

use std::path::Path;

use super::*;
use crate::handover::{Family, Flavour, NftTable, Place};
use crate::policy::Policy;

fn dockerd(arguments: &[&str], config: &str) -> Dockerd {
    Dockerd {
        pid: 1,
        arguments: arguments.iter().map(ToString::to_string).collect(),
        file: "/etc/docker/daemon.json".to_owned(),
        config: serde_json::from_str(config).ok(),
    }
}

fn policy(text: &str) -> PolicyFile {
    let path = "/etc/fw/policy.toml".to_owned();
    let policy = Policy::parse(text, Path::new(&path), Path::new("/nonexistent")).expect("a policy");
    PolicyFile::Read { path, policy: Box::new(policy), access: Access { owner: 0, mode: 0o100_600 } }
}

/// A host on which nothing is to be said but that nothing of fw is there.
fn plain() -> Seen {
    let kernel = Kernel { release: "6.12.3-amd64".to_owned(), btf: true, no_bpffs: None };
    Seen { kernel, file: policy(""), ..Seen::default() }
}

/// What is found, without notes.
fn grave(seen: &Seen) -> Vec<&'static str> {
    let found = examine(seen);
    found.iter().filter(|finding| finding.severity != Severity::Notes).map(|finding| finding.name).collect()
}

#[test]
fn a_plain_host_is_silent() {
    assert_eq!(grave(&plain()), Vec::<&str>::new());
}

#[test]
fn switches_of_dockerd_in_arguments_and_file() {
    for (found, expected) in [
        (dockerd(&["--iptables=false"], "{}"), Some(false)),
        (dockerd(&["--iptables", "-D"], "{}"), Some(true)),
        (dockerd(&[], r#"{"iptables": false}"#), Some(false)),
        (dockerd(&["--ip6tables=false"], "{}"), None),
        (dockerd(&[], ""), None),
    ] {
        assert_eq!(found.switch("iptables"), expected, "{found:?}");
    }
    let hosts = dockerd(&["-H", "fd://", "--host=tcp://0.0.0.0:2375"], r#"{"hosts": ["unix:///a"]}"#);
    assert_eq!(hosts.given("host"), ["fd://", "tcp://0.0.0.0:2375", "unix:///a"]);
}

#[test]
fn options_of_dockerd_that_do_not_fit() {
    let with = |arguments: &[&str], text: &str| {
        grave(&Seen { dockerd: Some(dockerd(arguments, "{}")), file: policy(text), ..plain() })
    };
    assert_eq!(with(&["--iptables=false"], ""), ["docker-without-rules"]);
    assert_eq!(with(&["--iptables=false"], "[nat]\nowner = \"fw\""), Vec::<&str>::new());
    assert_eq!(with(&[], "[nat]\nowner = \"fw\""), ["nat-owned-twice"]);
    assert_eq!(with(&["-H", "tcp://0.0.0.0:2375"], ""), ["docker-socket-open"]);
    assert_eq!(with(&["-H", "tcp://0.0.0.0:2376", "--tlsverify"], ""), Vec::<&str>::new());
    assert_eq!(with(&["-H", "tcp://127.0.0.1:2375"], ""), Vec::<&str>::new());
}

#[test]
fn docker_s_nftables_are_told_of_the_mark() {
    let text = "\tchain a {\n\t\tcounter drop comment \"UNPUBLISHED PORT DROP\"\n\t}\n";
    let table = |text: &str| NftTable { name: "ip docker-bridges".to_owned(), text: text.to_owned() };
    let seen = Seen { tables: vec![table(text)], ..plain() };
    assert_eq!(grave(&seen), ["docker-ignores-mark"]);
    let repair = &examine(&seen)[0].repair;
    assert!(repair[0].contains("\"bridge-accept-fwmark\": \"0x1000000/0x1000000\""), "{repair:?}");
    let told = "\t\tmeta mark & 0x01000000 == 0x01000000 counter accept comment \"ALLOW FW MARK\"\n";
    let seen = Seen { tables: vec![table(&format!("{text}{told}"))], ..plain() };
    // That rule asks for our bits, as it is meant to.
    assert_eq!(grave(&seen), Vec::<&str>::new());
}

#[test]
fn capabilities_that_reach_the_filter() {
    let process = |capabilities, host_user, host_network| Process {
        container: "c".to_owned(),
        capabilities,
        host_user,
        host_network,
    };
    let of = |process| grave(&Seen { processes: vec![process], ..plain() });
    assert_eq!(of(process(1 << 21, true, false)), ["container-powerful"]);
    assert_eq!(of(process(1 << 12, true, true)), ["container-powerful"]);
    assert_eq!(of(process(1 << 12, true, false)), Vec::<&str>::new(), "in its own network");
    assert_eq!(of(process(u64::MAX, false, false)), Vec::<&str>::new(), "of another user namespace");
    let on_host = examine(&Seen { processes: vec![process(0, true, true)], ..plain() });
    assert!(on_host.iter().any(|finding| finding.name == "container-on-host"));
}

#[test]
fn kernels() {
    let with = |release: &str, btf| {
        let kernel = Kernel { release: release.to_owned(), btf, no_bpffs: None };
        examine(&Seen { kernel, ..plain() })
            .into_iter()
            .map(|finding| finding.name)
            .next()
            .unwrap_or_default()
    };
    assert_eq!(with("5.10.0-30-amd64", true), "kernel-too-old");
    assert_eq!(with("6.12.3", false), "kernel-too-old");
    assert_eq!(with("6.1.0-9-amd64", true), "not-in-force");
    let kernel = Kernel { release: "6.1.0-9-amd64".to_owned(), btf: true, no_bpffs: None };
    let found = examine(&Seen { kernel, ..plain() });
    assert!(found.iter().any(|finding| finding.name == "kernel-without-tcx"), "{found:?}");
}

#[test]
fn files_of_rules() {
    let saved = "*nat\n:DOCKER - [0:0]\n-A DOCKER -i docker0 -j RETURN\nCOMMIT\n";
    let with = |path, text: &str, enabled: &str| {
        let files = [(path, text.to_owned())].into();
        examine(&Seen { files, enabled: [enabled.to_owned()].into(), ..plain() })
    };
    let found = with("/etc/iptables/rules.v4", saved, "netfilter-persistent.service");
    assert_eq!((found[0].name, found[0].severity), ("rules-persisted", Severity::Weakens));
    let found = with("/etc/iptables/rules.v4", saved, "");
    assert_eq!((found[0].name, found[0].severity), ("rules-persisted", Severity::Confuses));
    let own =
        "*filter\n:INPUT DROP [0:0]\n:DOCKER-USER - [0:0]\n-A DOCKER-USER -s 192.0.2.9 -j DROP\nCOMMIT\n";
    assert!(
        with("/etc/iptables/rules.v4", own, "").iter().all(|finding| finding.severity == Severity::Notes)
    );
    let named_alike = "*filter\n:FW-INPUT - [0:0]\n-A FW-INPUT -i br-lan -j ACCEPT\nCOMMIT\n";
    let found = with("/etc/iptables/rules.v4", named_alike, "");
    assert!(found.iter().all(|finding| finding.severity == Severity::Notes), "{found:?}");
    let flush = "flush ruleset\ntable inet mine {\n}\n";
    assert_eq!(with("/etc/nftables.conf", flush, "nftables.service")[0].name, "ruleset-flushed");
    assert!(with("/etc/nftables.conf", flush, "").iter().all(|finding| finding.severity == Severity::Notes));
    let commented = "# flush ruleset\n";
    let found = with("/etc/nftables.conf", commented, "nftables.service");
    assert!(found.iter().all(|finding| finding.severity == Severity::Notes));
}

#[test]
fn conntrack_that_is_nearly_full() {
    let with = |count: &str| {
        let sysctls =
            [("net/netfilter/nf_conntrack_count", count), ("net/netfilter/nf_conntrack_max", "1000\n")];
        let sysctls = sysctls.map(|(path, value)| (path.to_owned(), value.to_owned())).into();
        grave(&Seen { sysctls, ..plain() })
    };
    assert_eq!(with("900\n"), ["conntrack-full"]);
    assert_eq!(with("899\n"), Vec::<&str>::new());
}

#[test]
fn both_flavours_but_one_without_rules() {
    let text = |rule: &str| format!("*filter\n:INPUT ACCEPT [0:0]\n{rule}COMMIT\n");
    let place = |flavour| Place { family: Family::V6, flavour };
    let with = |legacy: &str| {
        let nft = text("-A INPUT -j ACCEPT\n");
        grave(&Seen {
            rules: vec![(place(Flavour::Nft), nft), (place(Flavour::Legacy), text(legacy))],
            ..plain()
        })
    };
    assert_eq!(with("-A INPUT -s ::1 -j DROP\n"), ["two-flavours"]);
    assert_eq!(with(""), Vec::<&str>::new());
}

#[test]
fn docker_is_restarted_for_its_own_rules_alone() {
    use fw_common::tables::nat_health::{FAILED, GONE, REFUSED};
    for (nat, restarts) in [(REFUSED, false), (FAILED, false), (GONE, true)] {
        let in_force = InForce { enforces: true, nat, ..InForce::default() };
        let found = examine(&Seen { in_force: Some(in_force), ..plain() });
        let found = found.iter().find(|finding| finding.name == "nat-unhealthy").expect("it is found");
        let repair = found.repair.join("\n");
        assert_eq!(repair.contains("restart docker"), restarts, "{nat}: {repair}");
    }
}

#[test]
fn a_host_without_nft_is_told_and_clean() {
    let seen = Seen { no_nft: true, ..plain() };
    assert_eq!(grave(&seen), Vec::<&str>::new());
    assert!(examine(&seen).iter().any(|finding| finding.name == "nft-absent"));
}
