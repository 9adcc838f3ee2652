//! What a rule set of iptables does with one packet: its rules walked as the kernel walks them, on the text of
//! iptables-save. Pure; nothing is guessed: a rule whose answer is not known ends the walk.

use std::collections::BTreeSet;
use std::net::IpAddr;

use fw_common::Address;
use fw_common::tables::Prefix;
use fw_common::wire::{proto, tcp};
use serde::Serialize;

use super::rule::number;
use super::save::{Rule, Save, tokenise};

/// A packet as netfilter sees it at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passing {
    /// IP protocol number.
    pub protocol: u8,
    /// The source and its port, 0 without one.
    pub source: (IpAddr, u16),
    /// The destination and its port, 0 without one.
    pub destination: (IpAddr, u16),
    /// Flags of TCP.
    pub flags: u8,
    /// Type of ICMP.
    pub icmp_type: u8,
    /// The device by which it came in.
    pub comes_in: String,
    /// The device by which it leaves; before routing none.
    pub leaves: Option<String>,
    /// Its mark; `None` once a rule has made one that cannot be told.
    pub mark: Option<u32>,
    /// Whether its connection goes on, as conntrack says; else it begins one.
    pub established: bool,
    /// Whether its connection's destination is translated.
    pub translated: bool,
}

/// A rule that holds the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hit {
    /// The table.
    pub table: &'static str,
    /// The chain.
    pub chain: String,
    /// The rule, as iptables-save prints it.
    pub rule: String,
}

/// What a chain of the system ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The packet goes on to the next table.
    Accept,
    /// It is gone; `true`: with an answer (REJECT).
    Drop(bool),
    /// Its destination becomes this; without a port that stays.
    Destination(IpAddr, Option<u16>),
    /// It ends at this host, at this port if one is named.
    Redirect(Option<u16>),
    /// Its source is translated.
    Source(String),
    /// What comes of this rule cannot be told.
    Unknown(String),
}

/// Addresses of this host.
pub type Locals = BTreeSet<IpAddr>;

/// Walks a chain of the system; `hits` gets the rules that hold the packet, which may change its mark.
pub(super) fn walk(
    save: &Save<'_>,
    (table, chain): (&'static str, &'static str),
    packet: &mut Passing,
    locals: &Locals,
    hits: &mut Vec<Hit>,
) -> End {
    if save.is_incompatible(table) {
        return End::Unknown(format!("table {table} holds rules that only nft can show"));
    }
    if let Some(end) = descend(save, (table, chain), packet, locals, hits, 0) {
        return end;
    }
    if !save.drops(table, chain) {
        return End::Accept;
    }
    hits.push(Hit { table, chain: chain.to_owned(), rule: "the chain's policy, DROP".to_owned() });
    End::Drop(false)
}

/// Walks a chain; `None` at its end.
fn descend(
    save: &Save<'_>,
    (table, chain): (&'static str, &str),
    packet: &mut Passing,
    locals: &Locals,
    hits: &mut Vec<Hit>,
    depth: u32,
) -> Option<End> {
    if depth > DEEPEST {
        return Some(End::Unknown(format!("chain {chain} lies too deep")));
    }
    for rule in save.chain(table, chain) {
        let words = tokenise(rule.spec);
        let Parsed { holds, target } = parse(&words, packet, locals);
        let (name, arguments) =
            target.split_first().map_or(("", &[][..]), |(name, rest)| (name.as_str(), rest));
        if holds == Some(false) || is_silent(name) {
            continue;
        }
        let hit = Hit { table, chain: chain.to_owned(), rule: rule.spec.to_owned() };
        if holds.is_none() {
            return Some(unknown(&rule));
        }
        hits.push(hit);
        let (goes, name) = match name.strip_prefix(GOTO) {
            Some(name) => (true, name),
            None => (false, name),
        };
        match name {
            "ACCEPT" => return Some(End::Accept),
            "DROP" => return Some(End::Drop(false)),
            "REJECT" => return Some(End::Drop(true)),
            "RETURN" => return None,
            "DNAT" => {
                let to = arguments.iter().skip_while(|word| *word != "--to-destination").nth(1);
                let end = to.and_then(|to| destination(to));
                return Some(end.map_or_else(|| unknown(&rule), |(to, port)| End::Destination(to, port)));
            }
            "REDIRECT" => {
                let to = arguments.iter().skip_while(|word| *word != "--to-ports").nth(1);
                let Some(to) = to else { return Some(End::Redirect(None)) };
                // Of a range it takes any.
                return Some(to.parse().map_or_else(|_| unknown(&rule), |port| End::Redirect(Some(port))));
            }
            "MASQUERADE" | "SNAT" => return Some(End::Source(target.join(" "))),
            "MARK" => {
                let value = arguments.iter().skip_while(|word| !word.starts_with("--set-")).nth(1);
                packet.mark = value.zip(packet.mark).and_then(|(value, mark)| set(value, mark));
            }
            // What it takes from the connection is not known; what it gives to it does not matter here.
            "CONNMARK" if arguments.iter().any(|word| word == "--restore-mark") => packet.mark = None,
            "CONNMARK" => {}
            name if save.has(table, name) => {
                let end = descend(save, (table, name), packet, locals, hits, depth + 1);
                if end.is_some() || goes {
                    return end;
                }
            }
            _ => return Some(unknown(&rule)),
        }
    }
    None
}

/// Deeper than any chain of chains that the kernel takes from iptables-legacy in practice.
const DEEPEST: u32 = 64;

/// What stands before the name of a chain that is gone to.
const GOTO: &str = "-g ";

/// Targets that let the packet go on as it is.
fn is_silent(target: &str) -> bool {
    matches!(target, "" | "LOG" | "NFLOG" | "TRACE" | "AUDIT")
}

fn unknown(rule: &Rule<'_>) -> End {
    End::Unknown(format!("-A {} {}", rule.chain, rule.spec))
}

/// A rule read for one packet.
struct Parsed {
    /// Whether it holds the packet; `None` if that cannot be told.
    holds: Option<bool>,
    /// The target and its arguments.
    target: Vec<String>,
}

fn parse(words: &[String], packet: &Passing, locals: &Locals) -> Parsed {
    let mut parsed = Parsed { holds: Some(true), target: Vec::new() };
    let mut rest = words;
    while let Some((word, behind)) = rest.split_first() {
        let (not, word, behind) = match (word.as_str(), behind.split_first()) {
            ("!", Some((word, behind))) => (true, word.as_str(), behind),
            (word, _) => (false, word, behind),
        };
        if word == "-j" || word == "-g" {
            parsed.target = behind.to_vec();
            if let (true, Some(name)) = (word == "-g", parsed.target.first_mut()) {
                name.insert_str(0, GOTO);
            }
            break;
        }
        let values = behind.iter().take_while(|word| !word.starts_with('-') && *word != "!").count();
        let (values, after) = behind.split_at(if word == "--comment" { 1.min(behind.len()) } else { values });
        rest = after;
        let holds = match word {
            "-m" | "--comment" => continue,
            _ => holds(word, values, packet, locals).map(|holds| holds != not),
        };
        parsed.holds = match (parsed.holds, holds) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (None, _) | (_, None) => None,
            (Some(true), Some(true)) => Some(true),
        };
    }
    parsed
}

/// Whether a condition holds the packet; `None` for one that is not known here, or cannot be told.
fn holds(option: &str, values: &[String], packet: &Passing, locals: &Locals) -> Option<bool> {
    let value = values.first().map(String::as_str);
    let list = || value.into_iter().flat_map(|value| value.split(','));
    let with_ports = matches!(packet.protocol, proto::TCP | proto::UDP | proto::UDP_LITE | proto::SCTP);
    let among = |port: u16| {
        let mut all = list().map(|range| {
            let (from, to) = range.split_once(':').unwrap_or((range, range));
            Some((from.parse::<u16>().ok()?..=to.parse().ok()?).contains(&port))
        });
        all.try_fold(false, |any, one| Some(any || one?)).map(|held| held && with_ports)
    };
    let is_local = |address: IpAddr| {
        (values.len() == 1 && value == Some("LOCAL"))
            .then(|| address.is_loopback() || locals.contains(&address))
    };
    match option {
        "-s" => within(value?, packet.source.0),
        "-d" => within(value?, packet.destination.0),
        "-i" => Some(is_device(value?, &packet.comes_in)),
        "-o" => packet.leaves.as_ref().map(|leaves| Some(is_device(value?, leaves)))?,
        "-p" => Some(is_protocol(value?, packet.protocol)),
        "--dport" | "--dports" => among(packet.destination.1),
        "--sport" | "--sports" => among(packet.source.1),
        "--dst-type" => is_local(packet.destination.0),
        "--src-type" => is_local(packet.source.0),
        "--mark" => {
            let (value, mask) = masked(value?)?;
            Some(packet.mark? & mask == value)
        }
        "--ctstate" | "--state" => list().try_fold(false, |any, state| {
            Some(
                any || match state {
                    "NEW" => !packet.established,
                    "ESTABLISHED" => packet.established,
                    "DNAT" => packet.translated,
                    "RELATED" | "INVALID" | "UNTRACKED" => false,
                    _ => return None,
                },
            )
        }),
        "--icmp-type" | "--icmpv6-type" => {
            let wanted = value?.split('/').next()?.parse::<u8>().ok()?;
            Some(matches!(packet.protocol, proto::ICMP | proto::ICMPV6) && packet.icmp_type == wanted)
        }
        "--tcp-flags" => {
            let [mask, set] = values else { return None };
            let (mask, set) = (flags(mask)?, flags(set)?);
            Some(packet.protocol == proto::TCP && packet.flags & mask == set)
        }
        "--syn" => {
            Some(packet.protocol == proto::TCP && packet.flags & flags("SYN,RST,ACK,FIN")? == tcp::SYN)
        }
        _ => None,
    }
}

fn within(prefix: &str, address: IpAddr) -> Option<bool> {
    let (base, bits) = prefix.split_once('/').unwrap_or((prefix, ""));
    let base: IpAddr = base.parse().ok()?;
    let whole = if base.is_ipv4() { 32 } else { 128 };
    // A mask that is no prefix is written as an address.
    let bits =
        if bits.is_empty() { whole } else { bits.parse::<u32>().ok().filter(|bits| *bits <= whole)? };
    let prefix = Prefix::new(Address::from(base), bits + 128 - whole);
    Some(base.is_ipv4() == address.is_ipv4() && prefix.holds(&Address::from(address)))
}

fn is_device(pattern: &str, device: &str) -> bool {
    pattern.strip_suffix('+').map_or(pattern == device, |start| device.starts_with(start))
}

fn is_protocol(name: &str, protocol: u8) -> bool {
    let number = match name {
        "all" => return true,
        "icmp" => proto::ICMP,
        "tcp" => proto::TCP,
        "udp" => proto::UDP,
        "gre" => proto::GRE,
        "icmpv6" | "ipv6-icmp" => proto::ICMPV6,
        "sctp" => proto::SCTP,
        "udplite" => proto::UDP_LITE,
        other => return other.parse() == Ok(protocol),
    };
    number == protocol
}

fn flags(names: &str) -> Option<u8> {
    names.split(',').try_fold(0, |all, name| {
        Some(
            all | match name {
                "NONE" => 0,
                "FIN" => tcp::FIN,
                "SYN" => tcp::SYN,
                "RST" => tcp::RST,
                "PSH" => 0x08,
                "ACK" => tcp::ACK,
                "URG" => tcp::URG,
                "ALL" => 0x3f,
                _ => return None,
            },
        )
    })
}

/// A value and its mask.
fn masked(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number(value)?, number(mask)?)),
        None => Some((number(text)?, u32::MAX)),
    }
}

/// What `--set-xmark VALUE/MASK` makes of a mark.
fn set(value: &str, mark: u32) -> Option<u32> {
    let (value, field) = masked(value)?;
    Some(mark & !field ^ value)
}

/// Where DNAT leads, if that is one place.
fn destination(text: &str) -> Option<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse() {
        return Some((address, None));
    }
    let socket: std::net::SocketAddr = text.parse().ok()?;
    Some((socket.ip(), Some(socket.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -m mark --mark 0x1000000/0x3000000 -m comment --comment fw -j ACCEPT
-A PREROUTING -d 172.18.0.2/32 ! -i br-a -j DROP
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -p udp -m udp --dport 53 -j REDIRECT --to-ports 5353
-A PREROUTING -p udp -m udp --dport 54 -j REDIRECT --to-ports 5000-5010
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i br-a -j RETURN
-A DOCKER ! -i br-a -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.18.0.2:80
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:LAST - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o br-a -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -p udp -m multiport --dports 5000:5010,53 -g LAST
-A FORWARD -p udp -j ACCEPT
-A DOCKER-USER -s 192.0.2.0/24 -m hashlimit --hashlimit-above 5/sec --hashlimit-name x -j DROP
-A DOCKER-USER -m comment --comment "a -j in quotes" -j LOG --log-prefix "-j DROP"
-A DOCKER-USER -m mark --mark 0x1000000/0x3000000 -m comment --comment fw -j ACCEPT
-A LAST -p tcp -j ACCEPT
COMMIT
"#;

    fn packet() -> Passing {
        Passing {
            protocol: proto::TCP,
            source: ("198.51.100.7".parse().expect("an address"), 4000),
            destination: ("203.0.113.1".parse().expect("an address"), 8080),
            flags: tcp::SYN,
            icmp_type: 0,
            comes_in: "eth0".to_owned(),
            leaves: None,
            mark: Some(0),
            established: false,
            translated: false,
        }
    }

    fn walked(at: (&'static str, &'static str), packet: &mut Passing) -> (End, Vec<Hit>) {
        let locals = Locals::from(["203.0.113.1".parse().expect("an address")]);
        let mut hits = Vec::new();
        let end = walk(&Save::parse(TEXT), at, packet, &locals, &mut hits);
        (end, hits)
    }

    const FORWARD: (&str, &str) = ("filter", "FORWARD");

    fn forwarded(change: impl FnOnce(&mut Passing)) -> End {
        let mut packet = Passing { leaves: Some("br-a".to_owned()), ..packet() };
        change(&mut packet);
        walked(FORWARD, &mut packet).0
    }

    #[test]
    fn a_published_port_leads_to_its_container() {
        let (end, hits) = walked(("nat", "PREROUTING"), &mut packet());
        let container = "172.18.0.2".parse().expect("an address");
        assert_eq!(end, End::Destination(container, Some(80)));
        assert_eq!(hits.iter().map(|hit| hit.chain.as_str()).collect::<Vec<_>>(), ["PREROUTING", "DOCKER"]);
        let mut inside = Passing { comes_in: "br-a".to_owned(), ..packet() };
        assert_eq!(walked(("nat", "PREROUTING"), &mut inside).0, End::Accept, "RETURN");
    }

    #[test]
    fn a_redirect_leads_to_this_host() {
        let to = |port| {
            let destination = (packet().destination.0, port);
            walked(("nat", "PREROUTING"), &mut Passing { protocol: proto::UDP, destination, ..packet() }).0
        };
        assert_eq!(to(53), End::Redirect(Some(5353)));
        assert!(matches!(to(54), End::Unknown(_)), "one of several");
    }

    #[test]
    fn only_what_is_vouched_for_passes() {
        assert_eq!(forwarded(|packet| packet.mark = Some(0x0100_0000)), End::Accept);
        assert_eq!(forwarded(|_| {}), End::Drop(false), "the policy of the chain");
        assert_eq!(forwarded(|packet| packet.established = true), End::Accept);
        let direct = &mut Passing { destination: ("172.18.0.2".parse().expect("one"), 80), ..packet() };
        assert_eq!(walked(("raw", "PREROUTING"), direct).0, End::Drop(false));
        direct.mark = Some(0x0100_0000);
        assert_eq!(walked(("raw", "PREROUTING"), direct).0, End::Accept);
    }

    #[test]
    fn a_chain_that_is_gone_to_ends_the_one_before() {
        let udp = |port| {
            move |packet: &mut Passing| {
                packet.protocol = proto::UDP;
                packet.destination.1 = port;
            }
        };
        assert_eq!(forwarded(udp(53)), End::Drop(false));
        assert_eq!(forwarded(udp(5005)), End::Drop(false));
        assert_eq!(forwarded(udp(54)), End::Accept);
    }

    #[test]
    fn what_is_not_known_is_not_guessed() {
        let end = forwarded(|packet| packet.source.0 = "192.0.2.9".parse().expect("an address"));
        assert!(matches!(&end, End::Unknown(rule) if rule.contains("hashlimit")), "{end:?}");
        assert_eq!(
            forwarded(|packet| packet.mark = Some(0x0100_0000)),
            End::Accept,
            "it does not concern others"
        );
    }

    #[test]
    fn a_rule_may_change_the_mark() {
        assert_eq!(set("0x10/0xff", 0x1234), Some(0x1210));
        assert_eq!(set("0x10/0xffffffff", 0x1234), Some(0x10));
    }
}
