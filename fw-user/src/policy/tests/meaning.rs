//! What a valid policy means: defaults, the design's example, sets, networks, warnings, the words of `fw check`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use ipnet::IpNet;

use super::super::{
    Egress, Interfaces, Mode, NatFrom, NatOwner, Origin, Policy, Proto, Published, SetName, Sources,
    Spoofing, Summary, Xdp, describe, table_prefixes,
};
use super::valid;

/// The example of the design, less what this version refuses.
const EXAMPLE: &str = r#"
mode = "enforce"
fallback = "docker"

[uplink]
interfaces = "auto"
xdp = "auto"
published = "closed"

[sets]
office = ["203.0.113.0/24", "2001:db8:12::/48"]
scanners = { file = "scanners.txt" }

[[allow]]
name = "ssh"
proto = "tcp"
ports = [22]
from = ["office"]

[[allow]]
name = "web"
proto = "tcp"
ports = [80, 443, "8000-8100"]

[[allow]]
name = "ping"
proto = "icmp"

[[deny]]
name = "scanners"
from = ["scanners"]

[networks.backend]
spoofing = "drop"

[[network]]
name = "lxc"
bridge = "lxcbr0"
subnets = ["10.0.3.0/24"]

[nat]
owner = "docker"
"#;

fn example() -> Policy {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("scanners.txt"), "# seen\n198.51.100.0/24\n\n2001:db8:666::1 # one\n")
        .expect("writable");
    let path = dir.path().join("policy.toml");
    fs::write(&path, EXAMPLE).expect("writable");
    Policy::read(&path).unwrap_or_else(|error| panic!("{error}"))
}

fn prefixes(policy: &Policy, set: &str) -> Vec<String> {
    policy.sets[&SetName(set.to_owned())].prefixes.iter().map(ToString::to_string).collect()
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

#[test]
fn the_example_of_the_design_is_valid() {
    let policy = example();
    assert_eq!(policy.mode, Mode::Enforce);
    assert_eq!(policy.uplink.interfaces, Interfaces::Auto);
    assert_eq!(prefixes(&policy, "office"), ["203.0.113.0/24", "2001:db8:12::/48"]);
    assert_eq!(prefixes(&policy, "scanners"), ["198.51.100.0/24", "2001:db8:666::1/128"]);
    assert!(
        matches!(&policy.sets[&SetName("scanners".into())].origin, Origin::File(path) if path.ends_with("scanners.txt"))
    );

    let [ssh, web, ping] = policy.allow.as_slice() else { panic!("three rules: {:?}", policy.allow) };
    assert_eq!((ssh.name.as_str(), ssh.proto, ssh.line), ("ssh", Proto::Tcp, 14));
    assert_eq!(ssh.from, Sources::Sets(vec![SetName("office".into())]));
    let ranges: Vec<_> = web.ports.iter().map(|range| (range.first(), range.last())).collect();
    assert_eq!(ranges, [(80, 80), (443, 443), (8000, 8100)]);
    assert_eq!(web.from, Sources::Any);
    assert_eq!((ping.proto, ping.ports.len()), (Proto::Icmp, 0));

    assert_eq!(policy.deny[0].from, [SetName("scanners".into())]);
    assert_eq!(policy.static_networks[0].subnets, [net("10.0.3.0/24")]);
    assert_eq!(policy.zones(), [&SetName("office".into())]);
}

#[test]
fn an_empty_file_is_the_default_policy() {
    let policy = valid("");
    assert_eq!(policy, Policy::default());
    assert_eq!((policy.mode, policy.uplink.published), (Mode::Enforce, Published::Closed));
    assert_eq!((policy.uplink.xdp, policy.marks.bit, policy.marks.mask()), (Xdp::Auto, 24, 0x0300_0000));
}

#[test]
fn every_supported_value_is_taken() {
    let policy = valid(
        "mode = \"observe\"\n[uplink]\ninterfaces = [\"eth0\", \"bond0.7\"]\nxdp = \"off\"\npublished = \"open\"\n[marks]\nbit = 30\n",
    );
    assert_eq!(policy.mode, Mode::Observe);
    assert_eq!(policy.uplink.interfaces, Interfaces::Named(vec!["eth0".into(), "bond0.7".into()]));
    assert_eq!((policy.uplink.xdp, policy.uplink.published), (Xdp::Off, Published::Open));
    assert_eq!(policy.marks.mask(), 0xc000_0000);
    assert_eq!(valid("[marks]\nbit = 0x11").marks.bit, 17);
}

#[test]
fn a_network_takes_from_the_default_what_it_leaves_out() {
    let policy = valid(
        "[networks.a]\negress = \"any\"\n[networks.\"*\"]\nspoofing = \"allow\"\n[networks.b]\nspoofing = \"drop\"\nreach = []\n",
    );
    assert_eq!(policy.network("a").spoofing, Spoofing::Allow);
    assert_eq!(policy.network("b").spoofing, Spoofing::Drop);
    assert_eq!(policy.network("other").spoofing, Spoofing::Allow);
    assert_eq!(policy.network("a").egress, Egress::Any);
    assert_eq!(valid("").network("a").spoofing, Spoofing::Drop);
}

#[test]
fn inline_prefixes_become_sets_that_rules_share() {
    let rule =
        |name: &str, from: &str| format!("[[allow]]\nname = \"{name}\"\nproto = \"icmp\"\nfrom = {from}\n");
    let policy = valid(
        &[
            "[sets]\noffice = [\"192.0.2.0/24\"]\n",
            &rule("a", "[\"198.51.100.7\", \"office\"]"),
            &rule("b", "[\"198.51.100.7/32\"]"),
            &rule("c", "[\"2001:db8::/32\", \"10.0.0.0/8\"]"),
            &rule("d", "[\"10.0.0.0/8\", \"2001:db8::/32\", \"10.0.0.0/8\"]"),
        ]
        .concat(),
    );
    let from: Vec<Vec<&str>> =
        policy.allow.iter().map(|rule| rule.from.sets().iter().map(SetName::as_str).collect()).collect();
    assert_eq!(
        from,
        [vec!["198.51.100.7/32", "office"], vec!["198.51.100.7/32"], vec!["c:inline"], vec!["c:inline"]]
    );
    assert_eq!(policy.zones().len(), 3);
    assert_eq!(prefixes(&policy, "c:inline"), ["10.0.0.0/8", "2001:db8::/32"]);
}

#[test]
fn as_many_zones_as_bits_are_valid() {
    let rules: Vec<String> = (0..64)
        .map(|n| format!("[[allow]]\nname = \"r{n}\"\nproto = \"icmp\"\nfrom = [\"192.0.2.{n}\"]\n"))
        .collect();
    assert_eq!(valid(&rules.concat()).zones().len(), 64);
}

#[test]
fn warnings_name_what_is_perhaps_not_meant() {
    let known = BTreeSet::from(["frontend".to_owned()]);
    let policy = valid(
        "[sets]\nnobody = []\n[networks.frontend]\n[networks.backend]\n[networks.lxc]\n\
         [[network]]\nname = \"lxc\"\nbridge = \"lxcbr0\"\nsubnets = [\"10.0.3.0/24\"]\n",
    );
    assert_eq!(
        policy.warnings(&known, &BTreeSet::new()),
        [
            "the policy has no [[allow]] rule: no new connection from outside is accepted",
            "set `nobody` is empty: it matches nobody",
            "[networks.backend]: Docker knows no network `backend` yet; what is said about it takes effect when it appears",
        ]
    );
    assert_eq!(
        example().warnings(&BTreeSet::from(["backend".to_owned()]), &BTreeSet::new()),
        Vec::<String>::new()
    );
}

#[test]
fn the_words_of_fw_check() {
    let mut policy = example();
    for set in policy.sets.values_mut() {
        if let Origin::File(path) = &mut set.origin {
            *path = "/etc/fw/scanners.txt".into();
        }
    }
    let expected = "\
mode       enforce: what the policy does not allow is dropped
uplinks    auto: physical interfaces and those of default routes
published  closed: a port that Docker publishes needs an allow rule
fallback   docker: without our programs Docker's own rules decide
labels     may-narrow: fw.* labels of containers may take away from what the file allows
xdp        auto: uplinks of hardware drop early in their driver, if it can
fast path  off: every packet takes the way of the kernel's stack
swarm      auto: the other nodes of a swarm that Docker is in reach what they need
nat        docker: Docker writes the NAT rules
tables     262144 flows, 32768 of one container; about 142 MB of kernel memory before anything is in them
mark       bits 24 and 25, mask 0x03000000

deny   scanners  everything                 from scanners, before every allow
allow  ssh       tcp 22                     from office
allow  web       tcp 80, 443, 8000-8100     from any
allow  ping      icmp echo (IPv4 and IPv6)  from any
drop   everything else that comes in from outside; replies, and what IPv6 and DHCP need, pass

sets
  office    2 prefixes
  scanners  2 prefixes, from /etc/fw/scanners.txt

networks
  backend  foreign source addresses are dropped; egress any; host allow; icc as Docker says
  others   foreign source addresses are dropped; egress any; host allow; icc as Docker says
  lxc is the bridge lxcbr0 with 10.0.3.0/24
";
    assert_eq!(describe(&policy), expected);
}

#[test]
fn inline_prefixes_are_shown_as_written_and_long_lists_cut() {
    let list: Vec<String> = (1..=6).map(|n| format!("\"192.0.2.{n}\"")).collect();
    let text = format!("[[deny]]\nname = \"a\"\nfrom = [{}]\n", list.join(", "));
    let shown = describe(&valid(&text));
    assert!(shown.contains("from 192.0.2.1, 192.0.2.2, 192.0.2.3, 192.0.2.4, 2 more, before"), "{shown}");
    assert!(!shown.contains("\nsets\n"), "{shown}");
}

#[test]
fn the_summary_is_what_json_shows() {
    let policy = example();
    let json = serde_json::to_value(Summary::of(&policy)).expect("a summary is plain data");
    assert_eq!(json["mode"], "enforce");
    assert_eq!(json["uplink"]["interfaces"], "auto");
    assert_eq!(json["allow"][0]["from"], serde_json::json!(["office"]));
    assert_eq!(json["allow"][1]["from"], "any");
    assert_eq!(json["allow"][1]["ports"][2], serde_json::json!({ "first": 8000, "last": 8100 }));
    assert_eq!(json["sets"]["office"], serde_json::json!({ "prefixes": 2, "origin": "list" }));
    assert_eq!(json["default_network"]["icc"], serde_json::Value::Null);
    assert_eq!(json["static_networks"][0]["subnets"], serde_json::json!(["10.0.3.0/24"]));
    assert_eq!(json["marks"]["mask"], 0x0300_0000);
}

#[test]
fn ipv6_prefixes_never_match_ipv4_in_tables() {
    let shown = |text: &str| table_prefixes(&net(text)).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown("10.0.0.0/8"), ["::ffff:10.0.0.0/104"]);
    assert_eq!(shown("0.0.0.0/0"), ["::ffff:0.0.0.0/96"]);
    assert_eq!(shown("2001:db8::/32"), ["2001:db8::/32"]);
    assert_eq!(shown("::fffe:0:0/95"), ["::fffe:0:0/96"]);
    let all = table_prefixes(&net("::/0"));
    assert_eq!(
        (all.len(), all[0].to_string().as_str(), all[95].to_string().as_str()),
        (96, "8000::/1", "::fffe:0:0/96")
    );
}

#[test]
fn the_blocks_of_the_manual_are_valid() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("scanners.txt"), "192.0.2.1\n").expect("writable");
    let manual = include_str!("../../../../docs/policy.md");
    let mut blocks = 0;
    for block in manual.split("```toml\n").skip(1) {
        let text = block.split("```").next().unwrap_or_default();
        if let Err(error) = Policy::parse(text, Path::new("docs/policy.md"), dir.path()) {
            panic!("{error}\n---\n{text}");
        }
        blocks += 1;
    }
    assert!(blocks >= 8, "only {blocks} blocks found");
}

#[test]
fn the_words_for_terms() {
    let policy = valid(
        "[networks.shop]\negress = \"internet\"\nreach = [\"db\"]\n[networks.db]\negress = \"none\"\nhost = \"deny\"\n\
         [containers.backup]\negress = [\"192.0.2.0/24\"]\n[containers.cart]\nhost = \"deny\"\n",
    );
    let shown = describe(&policy);
    for line in [
        "  db      foreign source addresses are dropped; egress none; host deny; icc as Docker says\n",
        "  shop    foreign source addresses are dropped; egress internet; host allow; icc as Docker says; reaches db\n",
        "\ncontainers\n  backup  egress 192.0.2.0/24; host as its network\n  cart    egress as its network; host deny\n",
    ] {
        assert!(shown.contains(line), "{line}\n---\n{shown}");
    }
    let json = serde_json::to_value(Summary::of(&policy)).expect("a summary is plain data");
    assert_eq!(json["networks"]["shop"]["reach"], serde_json::json!(["db"]));
    assert_eq!(json["containers"]["backup"]["egress"], serde_json::json!(["192.0.2.0/24"]));
    assert_eq!(json["containers"]["cart"], serde_json::json!({ "egress": null, "host": "deny" }));
    assert_eq!(policy.zones().len(), 1, "sets of egress are zones, too");
}

#[test]
fn translations_have_defaults_and_are_told() {
    let policy = valid(
        "[nat]\nowner = \"fw\"\n[[nat.redirect]]\nname = \"dns\"\nproto = \"udp\"\nports = [53]\nto = 5300\n\
         [[nat.dnat]]\nname = \"db\"\nproto = \"tcp\"\nports = [\"1-2\"]\naddress = \"192.0.2.1\"\nto = \"192.0.2.2:3\"\n",
    );
    let nat = &policy.nat;
    assert_eq!(nat.owner, NatOwner::Fw);
    assert_eq!(nat.redirects[0].from, BTreeSet::from([NatFrom::Containers]));
    assert_eq!(nat.dnats[0].from, BTreeSet::from([NatFrom::Containers, NatFrom::Uplinks, NatFrom::Host]));
    assert_eq!(nat.dnats[0].to_port, Some(3));
    let told = describe(&policy);
    for line in [
        "nat        fw: fw writes the NAT rules, Docker runs with --iptables=false\n",
        "nat    dns  udp 53                of containers to port 5300 of this host\n",
        "nat    db   tcp 1-2 of 192.0.2.1  of containers, uplinks, host to 192.0.2.2:3\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
    let summary = serde_json::to_value(Summary::of(&policy)).expect("plain data");
    assert_eq!(summary["nat"]["redirect"][0]["to"], 5300);
    assert_eq!(summary["nat"]["dnat"][0]["from"], serde_json::json!(["containers", "uplinks", "host"]));
}
