//! What iptables does besides our rules, as far as it says who is reached: where packets are translated to, and whether
//! forwarding is closed.

use std::net::{IpAddr, SocketAddr};

use fw_common::wire::proto;
use ipnet::IpNet;

use super::Family;
use super::own::docker_writes;
use super::save::{Rule, Save};

/// What the rule sets of this host say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Where packets for ports of this host are translated to, in the order of the rules.
    pub translations: Vec<Translation>,
    /// What each family does with what is forwarded.
    pub forwarding: Vec<Forwarding>,
}

/// A rule that leads a port of this host elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The family.
    pub family: Family,
    /// IP protocol number.
    pub protocol: u8,
    /// Name of the device by which packets must come in; `None`: any, or any but a bridge of Docker's.
    pub input: Option<String>,
    /// The address that is asked for; `None`: any of this host.
    pub address: Option<IpAddr>,
    /// First and last port that is asked for.
    pub ports: (u16, u16),
    /// Where packets go; `None`: to a socket of this host (REDIRECT).
    pub to: Option<IpAddr>,
    /// The port there; `None`: the same.
    pub to_port: Option<u16>,
}

/// How one family of one flavour forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The family.
    pub family: Family,
    /// Docker's chains are reached.
    pub docker: bool,
    /// The policy of `FORWARD` is DROP.
    pub drops: bool,
    /// Rules in `raw` drop what is addressed to containers directly.
    pub raw: bool,
    /// The policy of `INPUT` is DROP.
    pub input_drops: bool,
}

/// Chains that packets of this host itself, or of containers alone, come to.
const FROM_WITHIN: [&str; 4] = ["OUTPUT", "FW-OUTPUT", "FW-LOOPBACK", "FW-INSIDE"];

impl Survey {
    /// Adds what one rule set says.
    pub(super) fn add(&mut self, family: Family, save: &Save<'_>) {
        let incoming = save.table("nat").filter(|rule| !FROM_WITHIN.contains(&rule.chain));
        self.translations.extend(incoming.filter_map(|rule| translation(family, rule)));
        let drops_raw = |rule: &Rule<'_>| {
            let words = rule.conditions();
            words.windows(2).any(|pair| pair == ["-j", "DROP"])
        };
        self.forwarding.push(Forwarding {
            family,
            docker: docker_writes(save),
            drops: save.drops("filter", "FORWARD"),
            raw: save.chain("raw", "PREROUTING").iter().any(drops_raw),
            input_drops: save.drops("filter", "INPUT"),
        });
    }

    /// Whether Docker writes rules of this family.
    pub fn docker(&self, family: Family) -> bool {
        self.of(family).any(|forwarding| forwarding.docker)
    }

    /// Whether what no rule decides is dropped on its way through this host.
    pub fn drops_forwarded(&self, family: Family) -> bool {
        self.of(family).any(|forwarding| forwarding.drops)
    }

    /// Whether Docker drops what is addressed to containers directly before anything else.
    pub fn drops_direct(&self, family: Family) -> bool {
        self.of(family).any(|forwarding| forwarding.docker && forwarding.raw)
    }

    fn of(&self, family: Family) -> impl Iterator<Item = &Forwarding> {
        self.forwarding.iter().filter(move |forwarding| forwarding.family == family)
    }
}

impl Translation {
    /// Where a packet for this port of this address goes; to no address: it stays here.
    pub fn applies(&self, protocol: u8, address: IpAddr, port: u16) -> Option<(Option<IpAddr>, u16)> {
        let (first, last) = self.ports;
        let meant = self.protocol == protocol
            && (first..=last).contains(&port)
            && address.is_ipv4() == (self.family == Family::V4)
            && self.address.is_none_or(|asked| asked == address);
        meant.then_some((self.to, self.to_port.unwrap_or(port)))
    }
}

/// A rule that translates whatever the sender is. One with conditions that say nothing of port and address
/// (a mark, a source) holds for some packets alone, and is none.
fn translation(family: Family, rule: &Rule<'_>) -> Option<Translation> {
    let words = rule.conditions();
    let mut words = words.iter().map(String::as_str).peekable();
    let (mut input, mut protocol, mut address, mut ports, mut to, mut not) =
        (None, None, None, None, None, false);
    while let Some(word) = words.next() {
        match word {
            "!" => not = true,
            "-p" if !not => {
                protocol = Some(match words.next()? {
                    "tcp" => proto::TCP,
                    "udp" => proto::UDP,
                    "sctp" => proto::SCTP,
                    _ => return None,
                });
            }
            "-d" if !not => address = Some(words.next()?.parse::<IpNet>().ok()?),
            "--dport" if !not => ports = Some(range(words.next()?)?),
            "-i" if !not => input = Some(words.next()?.to_owned()),
            // Docker's: not from the bridge of the container itself.
            "-i" => _ = words.next()?,
            "-m" if matches!(words.peek(), Some(&("tcp" | "udp" | "sctp"))) => _ = words.next(),
            "-j" => match words.next()? {
                "DNAT" => {}
                "REDIRECT" => to = Some((None, None)),
                _ => return None,
            },
            "--to-destination" => {
                let (address, port) = target(words.next()?)?;
                to = Some((Some(address), port));
            }
            "--to-ports" => to = Some((None, Some(words.next()?.parse().ok()?))),
            _ => return None,
        }
        not &= word == "!";
    }
    let (to, to_port) = to?;
    let address = match address {
        Some(net) if net.prefix_len() == net.max_prefix_len() => Some(net.addr()),
        Some(_) => return None,
        None => None,
    };
    Some(Translation { family, input, protocol: protocol?, address, ports: ports?, to, to_port })
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    Some((first.parse().ok()?, last.parse().ok()?))
}

/// `192.0.2.1:80`, `[2001:db8::1]:80`, or an address alone.
fn target(text: &str) -> Option<(IpAddr, Option<u16>)> {
    match text.parse::<SocketAddr>() {
        Ok(socket) => Some((socket.ip(), Some(socket.port()))),
        Err(_) => Some((text.trim_matches(['[', ']']).parse().ok()?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
COMMIT
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A DOCKER -i docker0 -j RETURN
-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
-A DOCKER -d 192.0.2.1/32 ! -i docker0 -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.3:5353
-A MINE -s 192.0.2.9/32 -p tcp -m tcp --dport 1 -j DNAT --to-destination 172.17.0.9:1
-A MINE -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22
-A MINE -p tcp -m tcp --dport 100:110 -m comment --comment \"a b\" -j DNAT --to-destination 172.17.0.4
COMMIT
*raw
:PREROUTING ACCEPT [0:0]
-A PREROUTING -d 172.17.0.2/32 ! -i docker0 -j DROP
COMMIT
";

    #[test]
    fn what_docker_and_others_translate_is_read_and_what_depends_on_the_sender_is_not() {
        let mut survey = Survey::default();
        survey.add(Family::V4, &Save::parse(TEXT));
        let at: IpAddr = "192.0.2.1".parse().expect("an address");
        let other: IpAddr = "192.0.2.2".parse().expect("an address");
        let leads = |protocol, address, port| {
            survey.translations.iter().find_map(|rule| rule.applies(protocol, address, port))
        };
        let to = |text: &str, port| Some((Some(text.parse().expect("an address")), port));
        assert_eq!(leads(proto::TCP, other, 8080), to("172.17.0.2", 80));
        assert_eq!(leads(proto::UDP, at, 53), to("172.17.0.3", 5353));
        assert_eq!(leads(proto::UDP, other, 53), None, "another address");
        assert_eq!(leads(proto::TCP, at, 105), to("172.17.0.4", 105));
        assert_eq!(leads(proto::TCP, at, 2222), Some((None, 22)), "a redirect stays here");
        assert_eq!(leads(proto::TCP, at, 1), None, "it depends on who asks");
        assert!(
            survey.drops_forwarded(Family::V4)
                && survey.drops_direct(Family::V4) == survey.docker(Family::V4)
        );
        assert!(!survey.drops_forwarded(Family::V6));
    }

    #[test]
    fn docker_s_rules_of_ipv6_are_read() {
        let text = "*nat\n-A DOCKER ! -i br-x -p tcp -m tcp --dport 80 -j DNAT --to-destination [2001:db8::2]:8080\nCOMMIT\n";
        let mut survey = Survey::default();
        survey.add(Family::V6, &Save::parse(text));
        let at: IpAddr = "2001:db8::1".parse().expect("an address");
        let to = survey.translations[0].applies(proto::TCP, at, 80);
        assert_eq!(to, Some((Some("2001:db8::2".parse().expect("an address")), 8080)));
        assert_eq!(
            survey.translations[0].applies(proto::TCP, "192.0.2.1".parse().expect("an address"), 80),
            None
        );
    }
}
