//! Rules of others, for `networks` networks and `ports` published ports: what fw is measured against.
//!
//! The first network is the one that is measured, and the first port: both were there before all others, so that
//! Docker's lists, which grow at their head where the newest network is concerned, have them last.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};

#[path = "../../../fw-user/benches/support/prefixes.rs"]
#[expect(dead_code, reason = "single addresses are for `cargo xtask bench sets`")]
mod prefixes;

use super::street::{BRIDGE, CLIENTS, CONTAINER, CONTAINER_PORT, CONTAINER6, Ground, PUBLISHED};
use crate::lab::Lab;

/// An address and how many bits of it count.
pub(super) type Prefix = (Ipv4Addr, u8);

/// Which `iptables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    Nft,
    Legacy,
}

impl Flavour {
    /// Its program for whole tables, behind `ip` or `ip6`.
    fn restore(self) -> &'static str {
        match self {
            Self::Nft => "tables-nft-restore",
            Self::Legacy => "tables-legacy-restore",
        }
    }
}

/// Somebody's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// None at all.
    None,
    /// NAT alone: the floor.
    Floor(Flavour),
    /// Docker 20.10 to 27.
    Docker20(Flavour),
    /// Docker 28.2 to 28.5.
    Docker28(Flavour),
    /// Docker 29 with `--firewall-backend=nftables`.
    Docker29,
    /// Docker 20.10 with a list of allowed ports in DOCKER-USER that lets connections go on first.
    UserList(Flavour),
    /// As [`Rules::Floor`], and filtering by hand in nftables, with sets.
    Sets,
    /// All by hand in nftables, NAT with maps.
    SetsAndMaps,
    /// As [`Rules::Floor`], and unwanted ports dropped in raw PREROUTING, one rule for each wanted.
    Raw(Flavour),
    /// As [`Rules::Floor`], and unwanted ports dropped by INPUT, one rule for each wanted.
    Input(Flavour),
    /// As [`Rules::Floor`], and unwanted ports dropped in raw PREROUTING, with an ipset.
    RawSet,
    /// As [`Rules::Floor`], and unwanted ports dropped by an nftables chain of the device, with a set.
    Netdev,
    /// As [`Rules::Floor`], and denied sources dropped in raw PREROUTING, with an ipset.
    DeniedByIpset,
    /// As [`Rules::Floor`], and denied sources dropped by an nftables chain of the device, with a set.
    DeniedByNetdev,
}

impl Rules {
    /// What reports call it.
    pub(super) fn name(self) -> String {
        let (name, flavour) = match self {
            Self::None => ("no rules", None),
            Self::Floor(flavour) => ("NAT alone", Some(flavour)),
            Self::Docker20(flavour) => ("Docker 20-27 rules", Some(flavour)),
            Self::Docker28(flavour) => ("Docker 28 rules", Some(flavour)),
            Self::Docker29 => ("Docker 29 nftables rules", None),
            Self::UserList(flavour) => ("Docker 20-27 and a DOCKER-USER list", Some(flavour)),
            Self::Sets => ("nftables sets, iptables NAT", None),
            Self::SetsAndMaps => ("nftables sets and NAT maps", None),
            Self::Raw(flavour) => ("raw PREROUTING list", Some(flavour)),
            Self::Input(flavour) => ("INPUT list", Some(flavour)),
            Self::RawSet => ("ipset in raw PREROUTING", None),
            Self::Netdev => ("nftables netdev set", None),
            Self::DeniedByIpset => ("ipset of prefixes in raw PREROUTING", None),
            Self::DeniedByNetdev => ("nftables netdev set of prefixes", None),
        };
        match flavour {
            Some(Flavour::Nft) => format!("{name} (nft)"),
            Some(Flavour::Legacy) => format!("{name} (legacy)"),
            None => name.to_owned(),
        }
    }

    /// Writes them into a host.
    pub(super) fn write(
        self,
        lab: &Lab,
        ground: Ground,
        networks: usize,
        ports: u16,
        denied: &[Prefix],
    ) -> Result<()> {
        let nat = || nat(networks, ports);
        let restore = |lab: &Lab, flavour: Flavour, text: &str| match ground {
            Ground::Ipv6 => put(lab, &format!("ip6{}", flavour.restore()), &over_ipv6(text)),
            Ground::WithoutNat => put(lab, &format!("ip{}", flavour.restore()), &not_masqueraded(text)),
            Ground::Tcp => put(lab, &format!("ip{}", flavour.restore()), &over_tcp(text)),
            _ => put(lab, &format!("ip{}", flavour.restore()), text),
        };
        let nft = |lab: &Lab, text: &str| match ground {
            Ground::Ipv6 => put(lab, "nft -f -", &over_ipv6(text)),
            Ground::Tcp => put(lab, "nft -f -", &over_tcp(text)),
            _ => put(lab, "nft -f -", text),
        };
        let ipset = |lab: &Lab, text: &str| put(lab, "ipset restore", text);
        match self {
            Self::None => Ok(()),
            Self::Floor(flavour) => restore(lab, flavour, &nat()),
            Self::Docker20(flavour) => restore(lab, flavour, &(nat() + &docker20(networks, ports, ""))),
            Self::Docker28(flavour) => restore(lab, flavour, &(nat() + &docker28(networks, ports))),
            Self::Docker29 => nft(lab, &docker29(networks, ports)),
            Self::UserList(flavour) => {
                restore(lab, flavour, &(nat() + &docker20(networks, ports, &user_list(ports))))
            }
            Self::Sets => {
                restore(lab, Flavour::Nft, &nat())?;
                nft(lab, &sets(networks, ports))
            }
            Self::SetsAndMaps => nft(lab, &(sets(networks, ports) + &maps(networks, ports))),
            Self::Raw(flavour) => {
                let list =
                    wanted(ports, |port| format!("-A PREROUTING -p udp -m udp --dport {port} -j ACCEPT"));
                let raw = format!("*raw\n{list}-A PREROUTING -i eth0 -j DROP\nCOMMIT\n");
                restore(lab, flavour, &(nat() + &raw))
            }
            Self::Input(flavour) => {
                let list = wanted(ports, |port| format!("-A INPUT -p udp -m udp --dport {port} -j ACCEPT"));
                let filter = format!("*filter\n{list}-A INPUT -i eth0 -j DROP\nCOMMIT\n");
                restore(lab, flavour, &(nat() + &filter))
            }
            Self::RawSet => {
                let wanted = wanted(ports, |port| format!("add wanted {port}"));
                ipset(lab, &format!("create wanted bitmap:port range 0-65535\n{wanted}"))?;
                let rule = "-A PREROUTING -i eth0 -p udp -m set ! --match-set wanted dst -j DROP";
                restore(lab, Flavour::Nft, &(nat() + &format!("*raw\n{rule}\nCOMMIT\n")))
            }
            Self::Netdev => {
                restore(lab, Flavour::Nft, &nat())?;
                nft(lab, &netdev(ports))
            }
            Self::DeniedByIpset => {
                let size = denied.len();
                let add = denied.iter().fold(String::new(), |mut text, (address, length)| {
                    writeln!(text, "add denied {address}/{length}").expect("a string");
                    text
                });
                ipset(lab, &format!("create denied hash:net hashsize {size} maxelem {size}\n{add}"))?;
                let rule = "-A PREROUTING -m set --match-set denied src -j DROP";
                restore(lab, Flavour::Nft, &(nat() + &format!("*raw\n{rule}\nCOMMIT\n")))
            }
            Self::DeniedByNetdev => {
                restore(lab, Flavour::Nft, &nat())?;
                nft(lab, &netdev_sources(denied))
            }
        }
    }
}

/// One line for each published port.
fn wanted(ports: u16, line: impl Fn(u16) -> String) -> String {
    (0..ports).map(|number| line(published(number).0) + "\n").collect()
}

/// Has a program read rules.
fn put(lab: &Lab, program: &str, text: &str) -> Result<()> {
    std::fs::write(lab.path("/run/lab/rules"), text).context("cannot write rules into the lab")?;
    lab.host().script(&format!("{program} </run/lab/rules")).map(drop)
}

/// The same rules for ports of TCP: they differ in that word alone.
fn over_tcp(text: &str) -> String {
    text.replace(Ground::Published.protocol(), Ground::Tcp.protocol())
}

/// The same rules for IPv6; of subnets, the first.
fn over_ipv6(text: &str) -> String {
    [
        (format!("{CONTAINER}:"), format!("[{CONTAINER6}]:")),
        (CONTAINER.to_string(), CONTAINER6.to_string()),
        (network(0).1, format!("{CONTAINER6}/64")),
        ("table ip ".to_owned(), "table ip6 ".to_owned()),
        ("ipv4_addr".to_owned(), "ipv6_addr".to_owned()),
        ("ip daddr".to_owned(), "ip6 daddr".to_owned()),
        ("ip saddr".to_owned(), "ip6 saddr".to_owned()),
        ("dnat ip to".to_owned(), "dnat ip6 to".to_owned()),
    ]
    .iter()
    .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The same rules where the first network's addresses are seen outside.
fn not_masqueraded(text: &str) -> String {
    let of_first = format!("-A POSTROUTING -s {} ", network(0).1);
    text.lines()
        .filter(|line| !line.starts_with(&of_first))
        .fold(String::new(), |text, line| text + line + "\n")
}

/// Name of the bridge of a network, and its subnet.
pub(super) fn network(number: usize) -> (String, String) {
    if number == 0 {
        return (BRIDGE.to_owned(), "10.100.0.0/24".to_owned());
    }
    (format!("br-n{number}"), format!("10.{}.{}.0/24", 100 + number / 256, number % 256))
}

/// The published port and the container's, by number.
fn published(number: u16) -> (u16, u16) {
    if number == 0 { (PUBLISHED, CONTAINER_PORT) } else { (PUBLISHED + number, PUBLISHED + number) }
}

/// Docker's nat table without docker-proxy's part, as all its releases write it.
fn nat(networks: usize, ports: u16) -> String {
    let mut text = String::from(
        "*nat\n:DOCKER - [0:0]\n\
         -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n\
         -A OUTPUT -m addrtype --dst-type LOCAL -j DOCKER\n",
    );
    for (bridge, subnet) in (0..networks).rev().map(network) {
        writeln!(text, "-A POSTROUTING -s {subnet} ! -o {bridge} -j MASQUERADE").expect("a string");
    }
    for (_, port) in (0..ports).map(published) {
        writeln!(
            text,
            "-A POSTROUTING -s {CONTAINER} -d {CONTAINER} -p udp -m udp --dport {port} -j MASQUERADE"
        )
        .expect("a string");
    }
    for (bridge, _) in (0..networks).rev().map(network) {
        writeln!(text, "-A DOCKER -i {bridge} -j RETURN").expect("a string");
    }
    for (host, port) in (0..ports).map(published) {
        writeln!(
            text,
            "-A DOCKER ! -i {BRIDGE} -p udp -m udp --dport {host} -j DNAT --to-destination {CONTAINER}:{port}"
        )
        .expect("a string");
    }
    text + "COMMIT\n"
}

fn docker20(networks: usize, ports: u16, user: &str) -> String {
    let mut text = String::from(
        "*filter\n:FORWARD DROP\n:DOCKER - [0:0]\n:DOCKER-ISOLATION-STAGE-1 - [0:0]\n\
         :DOCKER-ISOLATION-STAGE-2 - [0:0]\n:DOCKER-USER - [0:0]\n\
         -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-ISOLATION-STAGE-1\n",
    );
    for (bridge, _) in (0..networks).rev().map(network) {
        writeln!(
            text,
            "-A FORWARD -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD -o {bridge} -j DOCKER\n\
             -A FORWARD -i {bridge} ! -o {bridge} -j ACCEPT\n\
             -A FORWARD -i {bridge} -o {bridge} -j ACCEPT\n\
             -A DOCKER-ISOLATION-STAGE-1 -i {bridge} ! -o {bridge} -j DOCKER-ISOLATION-STAGE-2\n\
             -A DOCKER-ISOLATION-STAGE-2 -o {bridge} -j DROP"
        )
        .expect("a string");
    }
    for (_, port) in (0..ports).map(published) {
        writeln!(
            text,
            "-A DOCKER -d {CONTAINER} ! -i {BRIDGE} -o {BRIDGE} -p udp -m udp --dport {port} -j ACCEPT"
        )
        .expect("a string");
    }
    text + user
        + "-A DOCKER-ISOLATION-STAGE-1 -j RETURN\n-A DOCKER-ISOLATION-STAGE-2 -j RETURN\n\
           -A DOCKER-USER -j RETURN\nCOMMIT\n"
}

fn docker28(networks: usize, ports: u16) -> String {
    let mut text = format!("*raw\n-A PREROUTING -d {CONTAINER} ! -i {BRIDGE} -j DROP\nCOMMIT\n");
    text += "*filter\n:FORWARD DROP\n:DOCKER - [0:0]\n:DOCKER-BRIDGE - [0:0]\n:DOCKER-CT - [0:0]\n:DOCKER-FORWARD - [0:0]\n\
         :DOCKER-ISOLATION-STAGE-1 - [0:0]\n:DOCKER-ISOLATION-STAGE-2 - [0:0]\n:DOCKER-USER - [0:0]\n\
         -A FORWARD -j DOCKER-USER\n-A FORWARD -j DOCKER-FORWARD\n\
         -A DOCKER-FORWARD -j DOCKER-CT\n-A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1\n-A DOCKER-FORWARD -j DOCKER-BRIDGE\n";
    for (_, port) in (0..ports).rev().map(published) {
        writeln!(
            text,
            "-A DOCKER -d {CONTAINER} ! -i {BRIDGE} -o {BRIDGE} -p udp -m udp --dport {port} -j ACCEPT"
        )
        .expect("a string");
    }
    for (bridge, _) in (0..networks).map(network) {
        writeln!(
            text,
            "-A DOCKER ! -i {bridge} -o {bridge} -j DROP\n\
             -A DOCKER-BRIDGE -o {bridge} -j DOCKER\n\
             -A DOCKER-CT -o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A DOCKER-FORWARD -i {bridge} -j ACCEPT\n\
             -A DOCKER-ISOLATION-STAGE-1 -i {bridge} ! -o {bridge} -j DOCKER-ISOLATION-STAGE-2\n\
             -A DOCKER-ISOLATION-STAGE-2 -o {bridge} -j DROP"
        )
        .expect("a string");
    }
    text + "COMMIT\n"
}

/// The allow-list that administrators write: by the port that the client asked for, which only conntrack still knows.
fn user_list(ports: u16) -> String {
    let list = wanted(ports, |port| {
        format!(
            "-A DOCKER-USER -i eth0 -p udp -m conntrack --ctorigdstport {port} --ctdir ORIGINAL -j RETURN"
        )
    });
    format!(
        "-A DOCKER-USER -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN\n{list}-A DOCKER-USER -i eth0 -j DROP\n"
    )
}

/// The tables of moby's nftables backend, as its golden files show them.
fn docker29(networks: usize, ports: u16) -> String {
    let bridges: Vec<_> = (0..networks).map(network).collect();
    let mut text =
        String::from("table ip docker-bridges {\n map in-jumps { type ifname : verdict; elements = {");
    let jumps = |chain: &str| {
        elements(bridges.iter().map(|(bridge, _)| format!("\"{bridge}\" : jump {chain}__{bridge}")))
    };
    write!(
        text,
        "{} }} }}\n map out-jumps {{ type ifname : verdict; elements = {{{} }} }}\n",
        jumps("filter-forward-in"),
        jumps("filter-forward-out")
    )
    .expect("a string");
    for (number, (bridge, _)) in bridges.iter().enumerate() {
        writeln!(
            text,
            " chain filter-forward-in__{bridge} {{\n  ct state established,related counter accept"
        )
        .expect("a string");
        writeln!(text, "  iifname {bridge} counter accept").expect("a string");
        if number == 0 {
            for (_, port) in (0..ports).map(published) {
                writeln!(text, "  ip daddr {CONTAINER} udp dport {port} counter accept").expect("a string");
            }
        }
        writeln!(
            text,
            "  counter drop\n }}\n chain filter-forward-out__{bridge} {{\n  \
             ct state established,related counter accept\n  counter accept\n }}"
        )
        .expect("a string");
    }
    text += " chain filter-FORWARD {\n  type filter hook forward priority filter; policy accept;\n  \
             oifname vmap @in-jumps\n  iifname vmap @out-jumps\n }\n";
    writeln!(
        text,
        " chain raw-PREROUTING {{\n  type filter hook prerouting priority raw; policy accept;\n  \
         ip daddr {CONTAINER} iifname != {BRIDGE} counter drop\n }}"
    )
    .expect("a string");
    text += " chain nat-prerouting-and-output {\n";
    for (host, port) in (0..ports).map(published) {
        writeln!(text, "  udp dport {host} counter dnat to {CONTAINER}:{port}").expect("a string");
    }
    text += " }\n chain nat-PREROUTING {\n  type nat hook prerouting priority dstnat; policy accept;\n  \
             fib daddr type local counter jump nat-prerouting-and-output\n }\n";
    text += " chain nat-POSTROUTING {\n  \
             type nat hook postrouting priority srcnat; policy accept;\n  iifname vmap { ";
    write!(text, "{} }}\n }}\n", jumps("nat-postrouting-out")).expect("a string");
    let mut chains = String::new();
    for (bridge, subnet) in &bridges {
        writeln!(
            chains,
            " chain nat-postrouting-out__{bridge} {{\n  oifname != {bridge} ip saddr {subnet} counter masquerade\n }}"
        )
        .expect("a string");
    }
    // A chain that a rule jumps to stands before it.
    let at = text.find(" chain nat-POSTROUTING").unwrap_or(text.len());
    text.insert_str(at, &chains);
    text + "}\n"
}

fn elements(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// What somebody who knows nftables writes: connections first, then one set for each question.
fn sets(networks: usize, ports: u16) -> String {
    let bridges = elements((0..networks).map(|number| format!("\"{}\"", network(number).0)));
    let allowed = elements((0..ports).map(|number| format!("udp . {CONTAINER} . {}", published(number).1)));
    format!(
        "table ip by-hand {{
            set bridges {{ type ifname; elements = {{ {bridges} }} }}
            set allowed {{ type inet_proto . ipv4_addr . inet_service; elements = {{ {allowed} }} }}
            chain forward {{
                type filter hook forward priority filter; policy drop;
                ct state established,related accept
                iifname \"eth0\" meta l4proto . ip daddr . th dport @allowed accept
                iifname @bridges oifname \"eth0\" accept
            }}
        }}\n"
    )
}

fn maps(networks: usize, ports: u16) -> String {
    let published = elements((0..ports).map(|number| {
        let (host, port) = published(number);
        format!("udp . {host} : {CONTAINER} . {port}")
    }));
    let subnets = elements((0..networks).map(|number| network(number).1));
    format!(
        "table ip by-hand-nat {{
            map published {{ type inet_proto . inet_service : ipv4_addr . inet_service; elements = {{ {published} }} }}
            set subnets {{ type ipv4_addr; flags interval; elements = {{ {subnets} }} }}
            chain prerouting {{
                type nat hook prerouting priority dstnat;
                fib daddr type local dnat ip to meta l4proto . th dport map @published
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat;
                oifname \"eth0\" ip saddr @subnets masquerade
            }}
        }}\n"
    )
}

fn netdev(ports: u16) -> String {
    let wanted = elements((0..ports).map(|number| published(number).0.to_string()));
    format!(
        "table netdev by-hand {{
            set wanted {{ type inet_service; elements = {{ {wanted} }} }}
            chain ingress {{
                type filter hook ingress device \"eth0\" priority 0; policy accept;
                meta l4proto udp udp dport != @wanted drop
            }}
        }}\n"
    )
}

fn netdev_sources(denied: &[Prefix]) -> String {
    let denied = elements(denied.iter().map(|(address, length)| format!("{address}/{length}")));
    format!(
        "table netdev by-hand {{
            set denied {{ type ipv4_addr; flags interval; auto-merge; elements = {{ {denied} }} }}
            chain ingress {{
                type filter hook ingress device \"eth0\" priority 0; policy accept;
                ip saddr @denied drop
            }}
        }}\n"
    )
}

/// So many sources that are denied, the clients' among them.
pub(super) fn denied(prefixes: usize) -> Vec<Prefix> {
    let Some(others) = prefixes.checked_sub(1) else { return Vec::new() };
    let others = prefixes::mixed(others, false);
    let mut denied: Vec<_> = others
        .into_iter()
        .filter_map(|(address, length)| match address {
            IpAddr::V4(address) => Some((address, length)),
            IpAddr::V6(_) => None,
        })
        .collect();
    denied.push((CLIENTS, 24));
    denied
}

/// As a file of a policy.
pub(super) fn lines(prefixes: &[Prefix]) -> String {
    prefixes.iter().fold(String::new(), |mut text, (address, length)| {
        writeln!(text, "{address}/{length}").expect("a string");
        text
    })
}
